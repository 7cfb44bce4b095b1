#include "eval/circuit/edge_run.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

#include "base/error.h"

namespace signalbox::eval {

using namespace engine;
using namespace kernels;
using namespace probes;

namespace {

using Kind = NodeId::Kind;

void add_to(std::vector<float>& x, const std::vector<float>& y) {
  for (size_t i = 0; i < x.size(); ++i) x[i] += y[i];
}

}  // namespace

void refuse_adapters_beside() {
  throw Error("adapters", "expected them merged into the weights for runs by edges, found them beside");
}

EdgeRunner::EdgeRunner(const ModelScorer& scorer)
    : scorer_(scorer),
      receivers_(*scorer.session().backend, scorer.session().model, scorer.session().weights),
      ablated_(scorer.n_pairs()) {
  if (scorer.session().beside) refuse_adapters_beside();
}

const std::vector<float>& EdgeRunner::ablated(size_t i, const NodeId& node) {
  const auto [at, fresh] = ablated_[i].try_emplace(node);
  if (!fresh) return at->second;
  const AblatedPair& pair = scorer_.pair(i);
  const LayerShape* layer = node.layer < 0 ? nullptr : &scorer_.session().shape.layers[static_cast<size_t>(node.layer)];
  const int64_t width = node.kind == Kind::head ? layer->attention.d_z : scorer_.session().shape.d_model;
  at->second.resize(static_cast<size_t>(pair.n_tokens() * width));
  for (int64_t t = 0; t < pair.n_tokens(); ++t) {
    if (!pair.mapped()[static_cast<size_t>(t)]) continue;
    const std::vector<float> values = pair.ablated(node, t);
    std::copy(values.begin(), values.end(), at->second.begin() + t * width);
  }
  return at->second;
}

// One run.
class EdgeRunner::Pass {
 public:
  Pass(EdgeRunner& runner, size_t i, const KeptEdges& kept)
      : runner_(runner),
        readers_(runner.receivers_),
        shape_(runner.scorer_.session().shape),
        pair_(runner.scorer_.pair(i)),
        pair_index_(i),
        kept_(kept),
        d_(static_cast<size_t>(shape_.d_model)),
        n_(static_cast<size_t>(pair_.n_tokens())) {
    const std::vector<uint8_t>& mapped = pair_.mapped();
    all_mapped_ = std::all_of(mapped.begin(), mapped.end(), [](uint8_t x) { return x != 0; });
  }

  double run() {
    embed();
    for (int32_t l = 0; l < shape_.n_layers(); ++l) {
      attention(l);
      if (shape_.layers[static_cast<size_t>(l)].moe)
        experts(l);
      else
        dense(l);
    }
    const std::vector<float> stream = stream_of(missing({Kind::logits, -1, -1, -1}, 0));
    const auto n_rows = static_cast<size_t>(runner_.scorer_.rows(pair_index_).n_rows());
    const Receivers::AllLogits all = readers_.all_logits(std::span(stream).last(n_rows * d_));
    return runner_.scorer_.metric_of(pair_index_, all.logits);
  }

 private:
  // A part that sends, and what would change behind it if it were ablated.
  struct Sender {
    NodeId node;
    std::vector<float> change;  // [n, width as written]; in the stream once `in_stream`
    bool in_stream = true;
  };
  using Missing = std::vector<size_t>;  // senders whose edges to a reader are taken out, ascending

  bool mapped(size_t t) const { return pair_.mapped()[t] != 0; }
  bool sends(const NodeId& node) const { return kept_.sends(node); }
  const std::vector<float>& ablated(const NodeId& node) { return runner_.ablated(pair_index_, node); }

  // Of a part that sends nothing no input is taken out: what it writes counts at tokens without ablated values alone.
  Missing missing(const NodeId& reader, char input) const {
    Missing out;
    if (reader.kind != Kind::logits && reader.kind != Kind::router && !sends(reader)) return out;
    for (size_t i = 0; i < senders_.size(); ++i)
      if (precedes(senders_[i].node, reader) && !kept_.has({senders_[i].node, reader, input})) out.push_back(i);
    return out;
  }

  // The sum that a reader sees: in double, so that many changes cost no accuracy.
  std::vector<float> stream_of(const Missing& of) {
    if (of.empty()) return stream_;
    std::vector<double> sum(stream_.begin(), stream_.end());
    for (const size_t i : of) {
      Sender& sender = senders_[i];
      if (!sender.in_stream) {
        sender.change = readers_.attention_output(sender.node.layer, widened(sender));
        sender.in_stream = true;
      }
      for (size_t c = 0; c < sum.size(); ++c) sum[c] += static_cast<double>(sender.change[c]);
    }
    return {sum.begin(), sum.end()};
  }

  // A head's change among the heads of its layer, zeros else.
  std::vector<float> widened(const Sender& head) const {
    const AttentionShape& of = shape_.layers[static_cast<size_t>(head.node.layer)].attention;
    const auto width = static_cast<size_t>(of.d_z), stride = static_cast<size_t>(of.n_heads) * width;
    std::vector<float> z(n_ * stride);
    for (size_t t = 0; t < n_; ++t)
      std::copy_n(head.change.data() + t * width, width,
                  z.data() + t * stride + static_cast<size_t>(head.node.index) * width);
    return z;
  }

  // Puts what stands in the part's place where it does not send; else notes what its edges would miss. `own`: row t of
  // what it writes begins at own + t * stride.
  void settle(const NodeId& node, float* own, size_t width, size_t stride) {
    const bool stays = sends(node);
    if (stays && !kept_.may_miss(node)) return;
    const std::vector<float>& instead = ablated(node);
    Sender sender{node, {}, node.kind != Kind::head};
    if (stays) sender.change.resize(n_ * width);
    for (size_t t = 0; t < n_; ++t) {
      if (!mapped(t)) continue;
      float* row = own + t * stride;
      for (size_t c = 0; c < width; ++c)
        if (stays)
          sender.change[t * width + c] = instead[t * width + c] - row[c];
        else
          row[c] = instead[t * width + c];
    }
    if (stays) senders_.push_back(std::move(sender));
  }

  void embed() {
    for (size_t t = 0; t < n_; ++t) {
      const auto row = pair_.base().row(Point::embed, -1, 0, static_cast<int64_t>(t));
      stream_.insert(stream_.end(), row.begin(), row.end());
    }
    if (pair_.other()) settle({}, stream_.data(), d_, d_);
  }

  void attention(int32_t l) {
    const AttentionShape& of = shape_.layers[static_cast<size_t>(l)].attention;
    const auto n_heads = static_cast<size_t>(of.n_heads), width = static_cast<size_t>(of.d_z), stride = n_heads * width;
    const auto head = [&](size_t h) { return NodeId{Kind::head, l, static_cast<int32_t>(h), -1}; };
    bool needed = !all_mapped_;
    for (size_t h = 0; h < n_heads; ++h) needed = needed || sends(head(h));
    std::vector<float> z(n_ * stride);
    if (needed) read_heads(l, n_heads, width, z);
    for (size_t h = 0; h < n_heads; ++h) settle(head(h), z.data() + h * width, width, stride);
    add_to(stream_, readers_.attention_output(l, z, true));
  }

  void read_heads(int32_t l, size_t n_heads, size_t width, std::vector<float>& z) {
    std::vector<int32_t> positions(n_);
    std::iota(positions.begin(), positions.end(), 0);
    std::map<Missing, size_t> known;
    std::vector<Receivers::Heads> made;
    const auto read = [&](size_t h, char input) {
      const Missing of = missing({Kind::head, l, static_cast<int32_t>(h), -1}, input);
      const auto [at, fresh] = known.try_emplace(of, made.size());
      if (fresh) made.push_back(readers_.heads(l, stream_of(of), positions));
      return at->second;
    };
    // Heads that have keys and values of one stream are attended together.
    std::map<std::pair<size_t, size_t>, std::vector<std::pair<size_t, size_t>>> together;  // head, stream of its query
    for (size_t h = 0; h < n_heads; ++h) {
      const size_t q = read(h, 'q'), k = read(h, 'k'), v = read(h, 'v');
      together[{k, v}].emplace_back(h, q);
    }
    const size_t d_query = made[0].q.size() / (n_ * n_heads);
    for (const auto& [from, heads] : together) {
      Receivers::Heads mixed{made[heads.front().second].q, made[from.first].k, made[from.second].v};
      for (const auto& [h, q] : heads)
        for (size_t t = 0; t < n_; ++t)
          std::copy_n(made[q].q.data() + (t * n_heads + h) * d_query, d_query,
                      mixed.q.data() + (t * n_heads + h) * d_query);
      const std::vector<float> out = readers_.attended(l, mixed);
      for (const auto& [h, q] : heads)
        for (size_t t = 0; t < n_; ++t)
          std::copy_n(out.data() + (t * n_heads + h) * width, width, z.data() + (t * n_heads + h) * width);
    }
  }

  void dense(int32_t l) {
    const NodeId node{Kind::mlp, l, -1, -1};
    std::vector<float> out(n_ * d_);
    if (!all_mapped_ || sends(node)) out = readers_.dense(l, stream_of(missing(node, 0)));
    settle(node, out.data(), d_, d_);
    add_to(stream_, out);
  }

  void experts(int32_t l) {
    const LayerShape& layer = shape_.layers[static_cast<size_t>(l)];
    const auto n_experts = static_cast<size_t>(layer.n_experts);
    const auto expert = [&](size_t e) { return NodeId{Kind::expert, l, static_cast<int32_t>(e), -1}; };
    std::vector<uint8_t> staying(n_experts);
    for (size_t e = 0; e < n_experts; ++e) staying[e] = sends(expert(e));
    const bool any = std::find(staying.begin(), staying.end(), 1) != staying.end();
    Receivers::Routes route;
    std::vector<float> outputs, out(n_ * d_), shared;
    if (any || !all_mapped_) {
      const NodeId router{Kind::router, l, -1, -1};
      route = readers_.routes(l, stream_of(any ? missing(router, 0) : Missing()));
      outputs = outputs_of(l, route);
    }
    const NodeId shared_node{Kind::shared, l, -1, -1};
    if (layer.shared) {
      shared.resize(n_ * d_);
      if (!all_mapped_ || sends(shared_node)) shared = readers_.shared(l, stream_of(missing(shared_node, 0)));
    }
    std::vector<Sender> noted = note_experts(l, route, outputs, staying);
    if (layer.shared) settle(shared_node, shared.data(), d_, d_);  // behind all readers of this layer
    if (!outputs.empty())
      out = readers_.combined(outputs, route.ids, route.weights, route.n_slots, shared);
    else if (layer.shared)
      out = shared;
    if (std::find(staying.begin(), staying.end(), 0) != staying.end()) add_to(out, pair_.ablated_experts(l, staying));
    add_to(stream_, out);
    for (Sender& sender : noted) senders_.push_back(std::move(sender));
  }

  // [n, n_slots, d_model], each expert's of the stream that it reads.
  std::vector<float> outputs_of(int32_t l, const Receivers::Routes& route) {
    std::map<Missing, std::vector<size_t>> slots_by_stream;
    std::map<int32_t, Missing> known;
    for (size_t slot = 0; slot < route.ids.size(); ++slot) {
      if (route.ids[slot] < 0) continue;
      const auto [at, fresh] = known.try_emplace(route.ids[slot]);
      if (fresh) at->second = missing({Kind::expert, l, route.ids[slot], -1}, 0);
      slots_by_stream[at->second].push_back(slot);
    }
    std::vector<float> outputs(route.ids.size() * d_);
    for (const auto& [of, slots] : slots_by_stream) {
      std::vector<int32_t> ids(route.ids.size(), -1);
      for (const size_t slot : slots) ids[slot] = route.ids[slot];
      const std::vector<float> made = readers_.expert_outputs(l, stream_of(of), ids, route.n_slots);
      for (const size_t slot : slots) std::copy_n(made.data() + slot * d_, d_, outputs.data() + slot * d_);
    }
    return outputs;
  }

  // Notes what edges of experts that send would miss, and takes the others out of the route.
  std::vector<Sender> note_experts(int32_t l, Receivers::Routes& route, const std::vector<float>& outputs,
                                   const std::vector<uint8_t>& staying) {
    std::vector<Sender> noted;
    for (size_t e = 0; e < staying.size(); ++e) {
      const NodeId node{Kind::expert, l, static_cast<int32_t>(e), -1};
      if (!staying[e] || !kept_.may_miss(node)) continue;
      noted.push_back({node, ablated(node), true});
    }
    const auto n_slots = static_cast<size_t>(route.n_slots);
    for (size_t slot = 0; slot < route.ids.size(); ++slot) {
      const size_t t = slot / n_slots;
      if (route.ids[slot] < 0 || !mapped(t)) continue;
      if (!staying[static_cast<size_t>(route.ids[slot])]) {
        route.weights[slot] = 0;
        continue;
      }
      const NodeId node{Kind::expert, l, route.ids[slot], -1};
      const auto at = std::find_if(noted.begin(), noted.end(), [&](const Sender& s) { return s.node == node; });
      for (size_t c = 0; at != noted.end() && c < d_; ++c)
        at->change[t * d_ + c] -= route.weights[slot] * outputs[slot * d_ + c];
    }
    return noted;
  }

  EdgeRunner& runner_;
  Receivers& readers_;
  const ModelShape& shape_;
  const AblatedPair& pair_;
  const size_t pair_index_;
  const KeptEdges& kept_;
  const size_t d_, n_;
  bool all_mapped_ = true;
  std::vector<float> stream_;  // [n, d_model] of the parts so far
  std::vector<Sender> senders_;
};

double EdgeRunner::metric(size_t i, const KeptEdges& kept) {
  scorer_.require_running();
  const double found = Pass(*this, i, kept).run();
  scorer_.count_runs(1);
  return found;
}

}  // namespace signalbox::eval
