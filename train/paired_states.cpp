#include "train/paired_states.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/error.h"
#include "base/unicode.h"
#include "base/utf8.h"

namespace signalbox::train {

namespace {

bool same_tokens(const Session& a, const Session& b, const PairedTokens& paired) {
  std::set<int32_t> used;
  for (size_t r = 0; r < paired.a.encoded.size(); ++r) {
    const std::vector<int32_t>& tokens = paired.a.encoded[r].prompt->tokens;
    if (tokens != paired.b.encoded[r].prompt->tokens) return false;
    used.insert(tokens.begin(), tokens.end());
  }
  if (!a.tokenizer || !b.tokenizer || a.tokenizer->hash() == b.tokenizer->hash()) return true;
  return std::all_of(used.begin(), used.end(),
                     [&](int32_t id) { return a.tokenizer->piece(id) == b.tokenizer->piece(id); });
}

// By the code point at which a word ends: the row of the token that ends there.
std::map<uint32_t, int64_t> word_ends(const Session& session, const Record& record, const EncodedRecord& encoded) {
  if (record.kind != Record::Kind::prompt || record.target)
    throw Error(
        record.where,
        "expected a \"prompt\" without a target (the two models' tokenizers differ, so tokens are paired by the "
        "ends of words), found another record");
  const EncodedText text = encode_prompt(record.prompt, session.encode);
  if (text.tokens != encoded.prompt->tokens)
    throw Error(record.where, "expected a prompt whose tokens can be paired by the ends of words, found another one");
  const std::u32string letters = code_points(record.prompt);
  std::map<uint32_t, int64_t> ends;
  for (size_t t = 0; t < text.tokens.size(); ++t) {
    const CharRange range = text.offsets[t];
    if (range.end <= range.begin || range.end > letters.size() || is_space(letters[range.end - 1])) continue;
    if (range.end < letters.size() && !is_space(letters[range.end])) continue;
    ends[range.end] = static_cast<int64_t>(t);  // of several that share the last character the last one
  }
  return ends;
}

}  // namespace

PairedTokens pair_tokens(const Session& a, const Session& b, const std::vector<Record>& records) {
  PairedTokens out;
  out.a = make_jobs(a, records, Generate{0, {}}, nullptr);
  out.b = make_jobs(b, records, Generate{0, {}}, nullptr);
  if (same_tokens(a, b, out)) {
    for (size_t r = 0; r < records.size(); ++r)
      for (int64_t t = 0; t < out.a.jobs[r].n_given(); ++t) out.in_a.emplace_back(static_cast<int64_t>(r), t);
    out.in_b = out.in_a;
    return out;
  }
  out.word_ends = true;
  for (size_t r = 0; r < records.size(); ++r) {
    const auto of_a = word_ends(a, records[r], out.a.encoded[r]), of_b = word_ends(b, records[r], out.b.encoded[r]);
    for (const auto& [end, row] : of_a)
      if (const auto found = of_b.find(end); found != of_b.end()) {
        out.in_a.emplace_back(static_cast<int64_t>(r), row);
        out.in_b.emplace_back(static_cast<int64_t>(r), found->second);
      }
  }
  return out;
}

StateSink::StateSink(const ModelShape& shape, const std::vector<int32_t>& layers, const std::vector<TokenAt>& tokens,
                     const std::vector<int64_t>& states)
    : d_model_(shape.d_model),
      n_tokens_(static_cast<int64_t>(tokens.size())),
      tokens_(tokens),
      state_of_(tokens.size(), -1) {
  for (size_t i = 0; i < states.size(); ++i) state_of_[static_cast<size_t>(states[i])] = static_cast<int64_t>(i);
  for (const int32_t layer : layers) {
    LayerStates& one = layers_.emplace_back();
    one.layer = layer;
    one.mid.assign(states.size() * static_cast<size_t>(d_model_), 0);
  }
}

bool StateSink::wants(Point point, int32_t layer) const {
  return (point == Point::resid_mid || point == Point::router_ids) &&
         std::any_of(layers_.begin(), layers_.end(), [&](const LayerStates& one) { return one.layer == layer; });
}

void StateSink::begin(const StepRows& rows) {
  wanted_.clear();
  for (const RowRange& range : rows.ranges) {
    const TokenAt first(range.sample, range.first_row), last(range.sample, range.first_row + range.n_rows);
    for (auto it = std::lower_bound(tokens_.begin(), tokens_.end(), first); it != tokens_.end() && *it < last; ++it)
      wanted_.emplace_back(range.batch_row + it->second - range.first_row, it - tokens_.begin());
  }
}

LayerStates& StateSink::at(int32_t layer) {
  return *std::find_if(layers_.begin(), layers_.end(), [&](const LayerStates& one) { return one.layer == layer; });
}

const LayerStates& StateSink::layer(int32_t layer) const { return const_cast<StateSink*>(this)->at(layer); }

void StateSink::take(Point, int32_t layer, const float* data, int64_t width) {
  LayerStates& one = at(layer);
  for (const auto& [row, token] : wanted_)
    if (const int64_t state = state_of_[static_cast<size_t>(token)]; state >= 0)
      std::copy_n(data + row * width, width, &one.mid[static_cast<size_t>(state * width)]);
}

void StateSink::take_ids(int32_t layer, const int32_t* ids, const int32_t*, int64_t n_slots) {
  LayerStates& one = at(layer);
  if (one.n_slots == 0) {
    one.n_slots = n_slots;
    one.ids.assign(static_cast<size_t>(n_tokens_ * n_slots), -1);
  }
  for (const auto& [row, token] : wanted_)
    std::copy_n(ids + row * n_slots, n_slots, &one.ids[static_cast<size_t>(token * n_slots)]);
}

void record_states(const Session& session, const RecordJobs& jobs, StateSink& sink, const RunEvents& events) {
  RunOptions run = session.options;
  run.interrupted = nullptr;  // on_progress ends the run
  session.run(jobs.jobs, run, events, &sink);
}

}  // namespace signalbox::train
