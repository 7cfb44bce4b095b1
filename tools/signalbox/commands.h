// The subcommands of the signalbox binary; one file each. Every function parses its own arguments (argv[0] is the
// command's name) and returns the exit code: 0 ok, 1 failure, 2 usage, 3 interrupted and resumable.
#pragma once
#include "base/namespaces.h"

namespace signalbox::tools {

int inspect_command(int argc, char** argv);
int tokenize_command(int argc, char** argv);
int generate_command(int argc, char** argv);
int score_command(int argc, char** argv);
int trace_command(int argc, char** argv);
int lens_command(int argc, char** argv);
int vocabulary_command(int argc, char** argv);
int run_command(int argc, char** argv);
int deactivate_command(int argc, char** argv);
int misroute_command(int argc, char** argv);
int merge_command(int argc, char** argv);
int rescore_command(int argc, char** argv);
int analyze_command(int argc, char** argv);
int report_command(int argc, char** argv);
int judge_command(int argc, char** argv);
int regimes_command(int argc, char** argv);
int faithfulness_command(int argc, char** argv);
int gradient_command(int argc, char** argv);
int causal_command(int argc, char** argv);
int circuit_command(int argc, char** argv);
int direction_command(int argc, char** argv);
int domains_command(int argc, char** argv);
int data_command(int argc, char** argv);
int make_model_command(int argc, char** argv);
int diff_command(int argc, char** argv);
int bench_command(int argc, char** argv);
int demo_command(int argc, char** argv);
int compress_command(int argc, char** argv);
int quantize_command(int argc, char** argv);
int train_command(int argc, char** argv);
int upcycle_command(int argc, char** argv);
int similarity_command(int argc, char** argv);
int transplant_command(int argc, char** argv);
int rationale_command(int argc, char** argv);
int download_command(int argc, char** argv);
int serve_command(int argc, char** argv);

}  // namespace signalbox::tools
