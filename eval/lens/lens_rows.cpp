#include "eval/lens/lens_rows.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace signalbox::eval {

namespace {

constexpr size_t most_logits = size_t{16} << 20;  // of one product with the head

}  // namespace

LensRows::LensRows(const Session& session, const std::vector<Job>& jobs, const ChosenTokens& chosen,
                   LensOptions options, const std::filesystem::path& dir)
    : jobs_(jobs),
      chosen_(chosen),
      options_(std::move(options)),
      reader_(options_.top, options_.tokens, session.model.n_vocab),
      layout_(session, jobs, options_.layers, options_.parts),
      lens_(*session.backend, session.model, session.weights),
      pool_(options_.threads),
      d_model_(static_cast<size_t>(session.model.d_model)),
      n_vocab_(static_cast<size_t>(session.model.n_vocab)),
      last_layer_(static_cast<int32_t>(session.model.n_layers()) - 1),
      token_bytes_((2 + layout_.entries().size()) * sizeof(int64_t) +
                   layout_.entries().size() * static_cast<size_t>(reader_.n_read()) * sizeof(TokenReading)),
      spool_(dir, token_bytes_) {
  for (const LensEntry& entry : entries()) accounts_ = accounts_ || entry.kind == Kind::edit;
}

bool LensRows::wants(Point point, int32_t layer) const {
  if (point == Point::resid_out)
    return layout_.has_layer(layer) || (options_.parts && layer == last_layer_) ||
           (layer < last_layer_ && layout_.first(Kind::edit, layer + 1) >= 0);
  if (!options_.parts) return false;
  if (point == Point::embed) return true;
  if (!layout_.has_layer(layer)) return false;
  return point == Point::attn_out || point == Point::mlp_out || point == Point::expert_contribution ||
         point == Point::router_ids || point == Point::shared_out;
}

void LensRows::begin(const StepRows& step) {
  rows_ = chosen_rows(step, chosen_);
  readings_.resize(rows_.size() * entries().size() * static_cast<size_t>(n_read()));
  experts_.assign(rows_.size() * entries().size(), -1);
}

void LensRows::take(Point point, int32_t layer, const float* data, int64_t width) {
  if (rows_.empty()) return;
  if (point == Point::expert_contribution) return take_experts(layer, data, width);
  gather_rows(rows_, data, width, 0, d_model_, parts_);
  switch (point) {
    case Point::embed: account(Kind::embed); return read(layout_.first(Kind::embed, -1));
    case Point::attn_out: account(Kind::attn_out); return read(layout_.first(Kind::attn_out, layer));
    case Point::mlp_out: account(Kind::mlp_out); return read(layout_.first(Kind::mlp_out, layer));
    case Point::shared_out: account(Kind::shared_out); return read(layout_.first(Kind::shared_out, layer));
    case Point::resid_out: return take_stream(layer);
    default: return;
  }
}

void LensRows::take_experts(int32_t layer, const float* data, int64_t width) {
  const int64_t first = layout_.first(Kind::expert, layer);
  const size_t n_slots = static_cast<size_t>(width) / d_model_;
  std::vector<double> sum(rows_.size() * d_model_, 0);
  for (size_t k = 0; k < n_slots; ++k) {
    gather_rows(rows_, data, width, static_cast<int64_t>(k * d_model_), d_model_, parts_);
    for (size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<double>(parts_[i]);
    read(first + static_cast<int64_t>(k));
  }
  std::transform(sum.begin(), sum.end(), parts_.begin(), [](double x) { return static_cast<float>(x); });
  account(Kind::moe_routed);
  read(layout_.first(Kind::moe_routed, layer));
}

void LensRows::take_stream(int32_t layer) {
  if (options_.translators && options_.translators->has(layer) && layout_.has_layer(layer)) {
    const std::vector<float> stream = parts_;
    options_.translators->apply(layer, parts_, pool_);
    divisors_ = lens_.divisors(parts_);
    read(layout_.first(Kind::resid_out, layer));
    parts_ = stream;
    divisors_ = lens_.divisors(parts_);
  } else {
    divisors_ = lens_.divisors(parts_);
    if (layout_.has_layer(layer)) read(layout_.first(Kind::resid_out, layer));
  }
  if (!accounts_) return;
  const std::vector<float> stream = parts_;
  if (const int64_t edit = layout_.first(Kind::edit, layer); edit >= 0) {
    for (size_t i = 0; i < parts_.size(); ++i)
      parts_[i] = static_cast<float>(static_cast<double>(stream[i]) - before_[i] - accounted_[i]);
    read(edit);
  }
  before_.assign(stream.begin(), stream.end());
  accounted_.assign(stream.size(), 0);
}

void LensRows::account(Kind kind) {
  if (!accounts_) return;
  if (kind == Kind::embed) {
    before_.assign(parts_.begin(), parts_.end());
    accounted_.assign(parts_.size(), 0);
  } else {
    for (size_t i = 0; i < parts_.size(); ++i) accounted_[i] += static_cast<double>(parts_[i]);
  }
}

void LensRows::read(int64_t entry) {
  const LensEntry::Kind kind = entries()[static_cast<size_t>(entry)].kind;
  const bool share = kind != Kind::resid_out;
  const size_t n_entries = entries().size(), n_each = static_cast<size_t>(n_read());
  const size_t at_once = std::max<size_t>(1, most_logits / n_vocab_);
  std::atomic<int64_t> not_finite{-1};
  for (size_t first = 0; first < rows_.size(); first += at_once) {
    const size_t n = std::min(at_once, rows_.size() - first);
    logits_.resize(n * n_vocab_);
    const std::vector<double> divisors = share
                                             ? std::vector<double>(n, 1.0)
                                             : std::vector<double>(divisors_.begin() + static_cast<int64_t>(first),
                                                                   divisors_.begin() + static_cast<int64_t>(first + n));
    lens_.logits(std::span(parts_).subspan(first * d_model_, n * d_model_), divisors, logits_);
    pool_.parallel_for(static_cast<int64_t>(n), [&](int64_t i, int) {
      const size_t row = first + static_cast<size_t>(i);
      const size_t to = (row * n_entries + static_cast<size_t>(entry)) * n_each;
      if (!reader_.read(std::span(logits_).subspan(static_cast<size_t>(i) * n_vocab_, n_vocab_), !share,
                        std::span(readings_).subspan(to, n_each)))
        not_finite = static_cast<int64_t>(row);
    });
    if (not_finite >= 0) fail(rows_[static_cast<size_t>(not_finite.load())], entry);
  }
}

void LensRows::fail(const ChosenRow& row, int64_t entry) const {
  const LensEntry& of = entries()[static_cast<size_t>(entry)];
  throw Error(
      "record " + jobs_[static_cast<size_t>(row.record)].prompt->id + ", position " + std::to_string(row.position),
      "expected finite logits of " + (of.layer < 0 ? "" : "layer." + std::to_string(of.layer) + ".") +
          lens_point_name(of.kind, of.place) + ", found others");
}

void LensRows::take_ids(int32_t layer, const int32_t* ids, const int32_t*, int64_t n_slots) {
  const auto first = static_cast<size_t>(layout_.first(Kind::expert, layer));
  for (size_t row = 0; row < rows_.size(); ++row) {
    std::vector<int32_t> route(ids + rows_[row].batch_row * n_slots, ids + (rows_[row].batch_row + 1) * n_slots);
    std::erase(route, -1);
    std::sort(route.begin(), route.end());
    std::copy(route.begin(), route.end(), experts_.begin() + static_cast<int64_t>(row * entries().size() + first));
  }
}

void LensRows::end() {
  const size_t n_entries = entries().size(), n_each = static_cast<size_t>(n_read());
  std::vector<std::byte> packed(token_bytes_);
  for (size_t row = 0; row < rows_.size(); ++row) {
    TokenReading* readings = readings_.data() + row * n_entries * n_each;
    for (size_t e = 0; e < n_entries; ++e)
      if (entries()[e].share())
        for (size_t i = e * n_each; i < (e + 1) * n_each; ++i) readings[i].logit /= divisors_[row];
    const int64_t head[] = {rows_[row].record, rows_[row].position};
    std::byte* to = packed.data();
    const auto put = [&to](const void* from, size_t bytes) {
      std::memcpy(to, from, bytes);
      to += bytes;
    };
    put(head, sizeof head);
    put(experts_.data() + row * n_entries, n_entries * sizeof(int64_t));
    put(readings, n_entries * n_each * sizeof(TokenReading));
    spool_.append(rows_[row].record, packed.data(), 1);
  }
}

void LensRows::read_all(const std::function<void(const LensToken&)>& visit) {
  const size_t n_entries = entries().size(), n_each = static_cast<size_t>(n_read());
  std::vector<std::byte> buffer(std::max<size_t>(token_bytes_, size_t{4} << 20));
  std::vector<int64_t> experts(n_entries);
  std::vector<TokenReading> readings(n_entries * n_each);
  spool_.read_all(buffer, [&](const std::byte* rows, int64_t n) {
    for (int64_t row = 0; row < n; ++row, rows += token_bytes_) {
      int64_t head[2];
      std::memcpy(head, rows, sizeof head);
      std::memcpy(experts.data(), rows + sizeof head, n_entries * sizeof(int64_t));
      std::memcpy(readings.data(), rows + sizeof head + n_entries * sizeof(int64_t),
                  readings.size() * sizeof(TokenReading));
      visit({head[0], head[1], experts, readings});
    }
  });
}

}  // namespace signalbox::eval
