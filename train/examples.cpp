#include "train/examples.h"

#include <algorithm>

#include "base/error.h"
#include "base/text.h"
#include "eval/data/record_jobs.h"

namespace signalbox::train {

int32_t end_token(const Session& session) {
  const std::vector<int32_t>& stops = session.stop_tokens;
  if (session.tokenizer)
    if (const auto text = session.tokenizer->role("eos_token"))
      if (const auto id = session.tokenizer->id_of(*text); id && std::binary_search(stops.begin(), stops.end(), *id))
        return *id;
  if (stops.size() == 1) return stops.front();
  const std::string found =
      stops.empty() ? "none" : joined(stops, ", ", [](int32_t token) { return std::to_string(token); });
  throw Error(session.path, "expected an end token to put behind targets (--no-end-token puts none), found " + found);
}

std::vector<Example> make_examples(const Session& session, const std::vector<Record>& records,
                                   std::optional<int32_t> end) {
  const std::vector<std::string> names = span_names(records);
  std::vector<Example> examples;
  for (const Record& record : records) {
    if (record.kind == Record::Kind::messages && !record.target)
      throw Error(record.where, "expected a target beside messages, found none");
    const EncodedRecord encoded = encode_record(record, session.encode, names);
    std::vector<int32_t> tokens = encoded.prompt->tokens;
    if (record.target && encoded.target_start == static_cast<int64_t>(tokens.size()))
      throw Error(record.where, "target: expected a text of at least one token, found " + in_quotes(*record.target));
    if (encoded.target_start == 0)
      throw Error(record.where,
                  "target: expected a token before it, to predict its first one from, found none (an empty prompt, and "
                  "a tokenizer that adds no begin token)");
    if (record.target && end) tokens.push_back(*end);
    const auto n = static_cast<int64_t>(tokens.size()), start = encoded.target_start.value_or(1);
    if (start >= n) throw Error(record.where, "expected a text of at least two tokens, found " + std::to_string(n));
    Example example;
    for (int64_t t = start; t <= n; ++t) example.targets.push_back(t < n ? tokens[static_cast<size_t>(t)] : -1);
    example.prompt = std::make_shared<Prompt>(record.id, std::move(tokens));
    Job job;
    job.prompt = example.prompt;
    job.task = Generate{};
    session.check(record.where, job);
    examples.push_back(std::move(example));
  }
  return examples;
}

int64_t count_targets(const std::vector<Example>& examples) {
  int64_t n = 0;
  for (const Example& example : examples) n += example.n_targets();
  return n;
}

}  // namespace signalbox::train
