#include "eval/routing/trace_texts.h"

#include <charconv>

#include "base/no_number.h"
#include "base/text.h"

namespace signalbox::eval {

namespace {

json::Value list_of(const std::vector<int32_t>& given, const std::vector<int32_t>& generated, auto item) {
  json::Value list = json::Value::array();
  for (const auto* tokens : {&given, &generated})
    for (const int32_t token : *tokens) list.push_back(item(token));
  return list;
}

json::Value prompt_text(const Record& record, const EncodedRecord& encoded, const Tokenizer* tokenizer) {
  switch (record.kind) {
    case Record::Kind::prompt: return record.prompt;
    case Record::Kind::messages: return encoded.text;
    case Record::Kind::tokens: return tokenizer ? json::Value(tokenizer->decode(record.tokens, false)) : json::Value();
  }
  return {};
}

json::Value counts_json(const EditCounts& counts) {
  json::Value list = json::Value::array();
  for (const int64_t count : {counts.tokens, counts.edited_tokens, counts.slots, counts.edited_slots})
    list.push_back(count);
  return list;
}

EditCounts read_counts(const json::Ref& list) {
  const std::vector<json::Ref> counts = list.items();
  if (counts.size() != 4) list.fail("expected 4 counts, found " + std::to_string(counts.size()));
  return {counts[0].size(), counts[1].size(), counts[2].size(), counts[3].size()};
}

bool generates(const Job& job) { return job.max_new() > 0; }

}  // namespace

json::Value text_line(const Record& record, const EncodedRecord& encoded, const Job& job, const Result& result,
                      const Tokenizer* tokenizer) {
  const std::vector<int32_t>& given = job.prompt->tokens;
  json::Value line = json::Value::object();
  line.set("id", record.id)
      .set("sample", int64_t{job.sample})
      .set("text", prompt_text(record, encoded, tokenizer))
      .set("tokens", list_of(given, result.tokens, [](int32_t token) { return json::Value(int64_t{token}); }));
  line.set("pieces", tokenizer ? list_of(given, result.tokens,
                                         [&](int32_t token) { return json::Value(tokenizer->piece(token)); })
                               : json::Value());
  line.set("generated", tokenizer ? json::Value(result.text) : json::Value());
  if (job.score()) {
    json::Value logprobs = json::Value::array();
    for (const double value : result.logprobs) logprobs.push_back(value);
    line.set("logprobs", std::move(logprobs));
  } else if (generates(job)) {
    line.set("finish_reason", result.finish_reason);
  }
  if (job.score() || generates(job)) line.set("logits_hash", hex64(result.logits_hash));
  line.set("prompt_edits", counts_json(result.prefix_edits)).set("later_edits", counts_json(result.later_edits));
  return line;
}

Result result_of_line(const json::Ref& line, const Job& job) {
  if (line.at("id").string() != job.prompt->id)
    line.at("id").fail("expected \"" + job.prompt->id + "\", found \"" + line.at("id").string() + "\"");
  if (line.at("sample").integer() != int64_t{job.sample})
    line.at("sample").fail("expected " + std::to_string(job.sample) + ", found another");
  Result result;
  result.index = job.index;
  result.prefill_seconds = result.decode_seconds = no_number;
  const std::vector<json::Ref> tokens = line.at("tokens").items();
  const size_t n_given = static_cast<size_t>(job.n_given());
  for (size_t t = 0; t < tokens.size(); ++t) {
    const int32_t token = static_cast<int32_t>(tokens[t].integer(0, INT32_MAX));
    if (t >= n_given)
      result.tokens.push_back(token);
    else if (token != job.prompt->tokens[t])
      tokens[t].fail("expected the given token " + std::to_string(job.prompt->tokens[t]) + ", found another");
  }
  if (tokens.size() < n_given)
    line.at("tokens").fail("expected the " + std::to_string(n_given) + " given tokens, found " +
                           std::to_string(tokens.size()));
  if (!line.at("generated").is_null()) result.text = line.at("generated").string();
  if (job.score())
    for (const json::Ref& value : line.at("logprobs").items())
      result.logprobs.push_back(value.is_null() ? no_number : value.number());
  else
    result.finish_reason = generates(job) ? line.at("finish_reason").string() : "length";
  if (const auto hash = line.find("logits_hash")) {
    const std::string& text = hash->string();
    const auto [end, bad] = std::from_chars(text.data(), text.data() + text.size(), result.logits_hash, 16);
    if (bad != std::errc() || end != text.data() + text.size()) hash->fail("expected a hash, found \"" + text + "\"");
  }
  // Of traces before edits were counted only those without any can be gone on with.
  if (job.plan || line.find("prompt_edits")) {
    result.prefix_edits = read_counts(line.at("prompt_edits"));
    result.later_edits = read_counts(line.at("later_edits"));
  }
  return result;
}

}  // namespace signalbox::eval
