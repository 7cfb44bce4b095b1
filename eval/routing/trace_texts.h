// texts.jsonl of a trace: what each sample says, and what came of it.
#pragma once
#include "base/json.h"
#include "base/namespaces.h"
#include "engine/jobs.h"
#include "eval/data/records.h"

namespace signalbox::eval {

// A line: id, sample, text (the prompt, or the messages as rendered; of given tokens what they decode to, special ones
// included), tokens (given and generated), pieces (each token as the vocabulary spells it), generated (text). text,
// pieces and generated are null without a tokenizer. Where tokens are generated: finish_reason and logits_hash; where
// they are scored: logprobs and logits_hash. prompt_edits and later_edits: Result's, each as [tokens run, tokens
// edited, slots, slots edited]. No times: the same job gives the same line.
json::Value text_line(const Record& record, const EncodedRecord& encoded, const Job& job, const Result& result,
                      const Tokenizer* tokenizer);

// The result of a job, as its line tells it; without times. Throws Error for a line that is not one of this job.
Result result_of_line(const json::Ref& line, const Job& job);

}  // namespace signalbox::eval
