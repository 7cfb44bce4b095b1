// signalbox download: a model from the Hugging Face hub, by the hub's own command-line tool. Signalbox itself opens no
// connection: it finds the tool, says what it runs, and becomes it.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>

#include "base/text.h"
#include "eval/data/hints.h"
#include "loaders/families/released_size.h"
#include "loaders/model/hub_cache.h"
#include "tools/signalbox/commands.h"
#include "tools/signalbox/flags.h"

namespace signalbox::tools {

namespace {

constexpr const char* install = "pip install -U huggingface_hub";

// The first program of that name on PATH; empty: none.
std::string on_path(const std::string& name) {
  const char* path = std::getenv("PATH");
  const std::string folders = path ? path : "";
  for (size_t at = 0; at <= folders.size();) {
    const size_t end = std::min(folders.find(':', at), folders.size());
    const std::string folder = folders.substr(at, end - at);
    const std::string file = (folder.empty() ? "." : folder) + "/" + name;
    std::error_code code;
    if (access(file.c_str(), X_OK) == 0 && std::filesystem::is_regular_file(file, code)) return file;
    at = end + 1;
  }
  return "";
}

struct HubTool {
  std::string name, file;
  std::string help;         // of its download command
  bool takes_list = false;  // --include A B, as until version 1.0; later --include A --include B
};

std::optional<HubTool> ask_tool(const std::string& name) {
  HubTool tool;
  tool.name = name;
  tool.file = on_path(name);
  if (tool.file.empty()) return std::nullopt;
  FILE* out = popen((shell_word(tool.file) + " download --help 2>/dev/null").c_str(), "r");
  if (!out) return std::nullopt;
  char part[4096];
  for (size_t n = 0; (n = fread(part, 1, sizeof part, out)) > 0;) tool.help.append(part, n);
  pclose(out);
  tool.takes_list = tool.help.find("[INCLUDE") != std::string::npos;
  return tool;
}

// The current tool, else the older one; each must know --include.
HubTool find_tool() {
  std::string found;
  for (const char* name : {"hf", "huggingface-cli"})
    if (std::optional<HubTool> tool = ask_tool(name)) {
      if (tool->help.find("--include") != std::string::npos) return *tool;
      found = tool->file + ", whose download command has no --include";
    }
  throw Error("download", std::string("expected hf or huggingface-cli on PATH, found ") +
                              (found.empty() ? "neither" : found) + "; " + install + " brings it");
}

}  // namespace

int download_command(int argc, char** argv) {
  CLI::App app(
      "Gets a model from the Hugging Face hub into the local cache, by the hub's own tool (hf, else huggingface-cli), "
      "which must be installed. Only the files that Signalbox reads are fetched. The tool's exit code is returned.",
      "signalbox download");
  app.footer(
      "Example:\n  signalbox download ORG/NAME --dry-run\n\n"
      "Licences, sizes and what fits where: docs/your-own-model.md.");
  std::string model, revision;
  bool dry_run = false, quiet = false;
  app.add_option("MODEL", model, "org/name[@revision]")->required();
  app.add_option("--revision", revision, "a branch, tag or commit (default: main)");
  app.add_flag("--dry-run", dry_run, "list the files and their sizes, and get none");
  app.add_flag("--quiet", quiet, "do not say what is run");
  if (int code = parse_arguments(app, argc, argv); code >= 0) return code;
  const auto name = hub_name(model);
  if (!name || name->id.find('/') == std::string::npos)
    throw UsageError("MODEL", "expected org/name[@revision] as on the hub, found " + in_quotes(model));
  const bool inside = model.find('@') != std::string::npos;
  if (inside && !revision.empty()) throw UsageError("--revision", "expected no @revision beside it, found one");
  if (!revision.empty() && !hub_name(name->id + "@" + revision))
    throw UsageError("--revision", "expected a branch, tag or commit, found " + in_quotes(revision));
  if (inside) revision = name->revision;

  const HubTool tool = find_tool();
  std::vector<std::string> words = {tool.name, "download", name->id};
  if (!revision.empty()) words.insert(words.end(), {"--revision", revision});
  if (tool.takes_list) words.emplace_back("--include");
  for (const std::string& pattern : snapshot_patterns()) {
    if (!tool.takes_list) words.emplace_back("--include");
    words.push_back(pattern);
  }
  if (dry_run) {
    if (tool.help.find("--dry-run") == std::string::npos)
      throw Error("download --dry-run",
                  "expected a tool that knows it, found " + tool.file + "; " + install + " brings one");
    words.emplace_back("--dry-run");
  }
  if (!quiet) {
    std::fprintf(stderr, "signalbox: runs %s\n", joined(words, " ", shell_word).c_str());
    const int64_t bytes = families::released_bytes(name->id);
    std::fprintf(stderr, "signalbox: size %s\n",
                 bytes > 0 ? ("about " + gigabytes(bytes)).c_str() : "not known (--dry-run asks the hub)");
  }
  std::fflush(nullptr);
  std::signal(SIGXFSZ, SIG_DFL);
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  execv(tool.file.c_str(), arguments.data());
  throw Error(tool.file, std::string("cannot be run: ") + std::strerror(errno));
}

}  // namespace signalbox::tools
