#include "tools/bench/turns.h"

#include <algorithm>
#include <istream>
#include <span>

#include "tools/bench/timer.h"
#include "tools/terminal/output.h"
#include "tools/terminal/signals.h"

namespace signalbox::tools {

Turns::Turns(Session& session, int64_t chunk)
    : session_(session), chunk_(chunk), forward_(*session.backend, session.model, session.weights, 0) {}

// The tokens that tools/bench/peer_worker.py gives the other engines.
std::vector<int32_t> Turns::prompt(int64_t sequence, int64_t n_tokens) const {
  std::vector<int32_t> tokens;
  uint32_t state = static_cast<uint32_t>(2 * sequence + 1);
  for (int64_t t = 0; t < n_tokens; ++t) {
    state = state * 1664525u + 1013904223u;
    tokens.push_back(static_cast<int32_t>((state >> 8) % session_.model.n_vocab));
  }
  return tokens;
}

int32_t Turns::read(SequenceCache& kv, const std::vector<int32_t>& tokens) {
  const int64_t n = static_cast<int64_t>(tokens.size());
  int32_t chosen = 0;
  for (int64_t at = 0; at < n; at += chunk_) {
    stop_if_interrupted();
    const int64_t count = std::min(chunk_, n - at);
    const bool last = at + count == n;
    Batch batch;
    batch.append(kv, nullptr, 0, std::span(tokens).subspan(static_cast<size_t>(at), static_cast<size_t>(count)), {}, n,
                 last ? 1 : 0);
    if (last) batch.sampling.resize(1);
    const Outputs outputs = forward_.run(batch, nullptr);
    if (last) chosen = outputs.tokens.front();
  }
  return chosen;
}

double Turns::prefill(int64_t n_tokens) {
  if (prompt_positions_ < n_tokens) {
    forward_.backend().forget_graphs();  // the pool that they name goes
    prompt_pool_ = std::make_unique<KvPool>(forward_.backend(), session_.model, KvPool::blocks_for(n_tokens));
    prompt_positions_ = n_tokens;
  }
  SequenceCache kv(*prompt_pool_);
  const std::vector<int32_t> tokens = prompt(0, n_tokens);
  const double start = now();
  read(kv, tokens);
  return now() - start;
}

double Turns::decode(int64_t batch, int64_t context, int64_t n_new) {
  Decoding& of = decoding_[{batch, context}];
  if (of.most_new < n_new) {
    forward_.backend().forget_graphs();
    of.sequences.clear();
    of.first.clear();
    of.pool = std::make_unique<KvPool>(forward_.backend(), session_.model, batch * KvPool::blocks_for(context + n_new));
    for (int64_t s = 0; s < batch; ++s) {
      of.sequences.emplace_back(*of.pool);
      of.first.push_back(read(of.sequences.back(), prompt(s, context)));
    }
    of.most_new = n_new;
  }
  for (SequenceCache& sequence : of.sequences) sequence.rewind(context);
  std::vector<int32_t> tokens = of.first;
  const double start = now();
  for (int64_t i = 0; i < n_new; ++i) {
    stop_if_interrupted();
    Batch step;
    for (size_t s = 0; s < of.sequences.size(); ++s)
      step.append(of.sequences[s], nullptr, static_cast<int64_t>(s), std::span(tokens).subspan(s, 1), {}, context, 1);
    step.sampling.resize(of.sequences.size());
    const Outputs outputs = forward_.run(step, nullptr);
    tokens.assign(outputs.tokens.begin(), outputs.tokens.end());
  }
  return (now() - start) / static_cast<double>(n_new);
}

json::Value Turns::answer(const std::string& line, const std::string& where) {
  const json::Value value = json::parse(line, where);
  const json::Ref request(value, where);
  request.expect_object();
  const auto size = [&](const char* key) { return request.at(key).integer(1, int64_t{1} << 20); };
  const bool decodes = request.find("decode").has_value();
  if (decodes)
    request.reject_unknown({"decode", "context", "tokens"});
  else
    request.reject_unknown({"prefill"});
  const int64_t longest = decodes ? size("context") + size("tokens") : size("prefill");
  const int64_t most = session_.model.max_positions;
  if (most > 0 && longest > most)
    throw Error(
        where, "expected at most the model's " + std::to_string(most) + " positions, found " + std::to_string(longest));
  const double seconds = decodes ? decode(size("decode"), size("context"), size("tokens")) : prefill(size("prefill"));
  return json::Value::object().set("seconds", seconds);
}

void answer_turns(Session& session, int64_t chunk, std::istream& in) {
  Turns turns(session, chunk);
  int64_t n = 0;
  for (std::string line; std::getline(in, line);)
    write_stdout(json::dump(turns.answer(line, "standard input, line " + std::to_string(++n))) + "\n");
}

}  // namespace signalbox::tools
