#include "eval/circuit/ablated_pair.h"

#include <algorithm>
#include <array>
#include <functional>
#include <iterator>
#include <numeric>

#include "base/error.h"
#include "base/text.h"
#include "probes/edit_memory.h"
#include "probes/edits.h"

namespace signalbox::eval {

using namespace engine;
using namespace kernels;
using namespace probes;

namespace {

using Kind = NodeId::Kind;
constexpr std::array<std::pair<CircuitAblation, std::string_view>, 3> ablations_by_name = {
    {{CircuitAblation::corrupt, "corrupt"}, {CircuitAblation::mean, "mean"}, {CircuitAblation::zero, "zero"}}};

// The point at which a part's output stands, in part where there are several of its kind.
Point point_of(Kind kind) {
  switch (kind) {
    case Kind::head: return Point::attn_z;
    case Kind::expert: return Point::expert_contribution;
    case Kind::shared: return Point::shared_out;
    case Kind::mlp: return Point::mlp_out;
    default: return Point::embed;
  }
}

int64_t width_of(const ModelShape& shape, const NodeId& node) {
  return node.kind == Kind::head ? shape.layers[static_cast<size_t>(node.layer)].attention.d_z : shape.d_model;
}

// Ids of the experts that a token uses, ascending, as expert.contribution has them.
std::vector<int32_t> used_experts(const ActivationStore& run, int32_t layer, int64_t position) {
  const auto at = static_cast<size_t>(*run.layer_index(layer));
  const Recording::Rows rows{position, position + 1};
  const std::vector<int32_t> ids = run.ids(rows);
  const auto n_slots = static_cast<size_t>(run.n_slots());
  std::vector<int32_t> used(ids.begin() + static_cast<int64_t>(at * n_slots),
                            ids.begin() + static_cast<int64_t>((at + 1) * n_slots));
  std::erase(used, -1);
  std::sort(used.begin(), used.end());
  return used;
}

json::Value edit_of(const char* op, Point point, int32_t layer) {
  json::Value edit = json::Value::object();
  edit.set("op", op).set("point", point_info(point).name);
  if (layer >= 0) edit.set("layers", std::to_string(layer));
  return edit;
}

json::Value neurons_of(std::span<const int32_t> heads, int64_t d_z) {
  json::Value neurons = json::Value::array();
  for (const int32_t head : heads)
    for (int64_t c = 0; c < d_z; ++c) neurons.push_back(head * d_z + c);
  return neurons;
}

// Calls visit(first, behind) for every run of consecutive tokens that alike(t, t + 1) joins and wanted(t) asks for.
void each_run(size_t n, const std::function<bool(size_t)>& wanted, const std::function<bool(size_t, size_t)>& alike,
              const std::function<void(size_t first, size_t behind)>& visit) {
  for (size_t begin = 0; begin < n;) {
    size_t end = begin + 1;
    if (wanted(begin)) {
      while (end < n && wanted(end) && alike(end - 1, end)) ++end;
      visit(begin, end);
    }
    begin = end;
  }
}

json::Value at_tokens(json::Value edit, size_t first, size_t behind) {
  edit.set("tokens", json::Value::object().set("positions", std::to_string(first) + ":" + std::to_string(behind)));
  return edit;
}

}  // namespace

CircuitAblation parse_ablation(std::string_view name, const std::string& where) {
  for (const auto& [ablation, known] : ablations_by_name)
    if (known == name) return ablation;
  throw Error(where, "expected corrupt, mean or zero, found " + in_quotes(name));
}

std::string_view ablation_name(CircuitAblation ablation) {
  return ablations_by_name[static_cast<size_t>(ablation)].second;
}

PointSet node_points(const ModelShape& shape, bool head_inputs) {
  std::string globs = "embed,*.resid_in,*.resid_mid,*.resid_out,*.attn.z";
  if (head_inputs) globs += ",*.attn.q,*.attn.k,*.attn.v";
  bool moe = false, shared = false, dense = false;
  for (const LayerShape& layer : shape.layers) {
    moe = moe || layer.moe;
    shared = shared || layer.shared;
    dense = dense || !layer.moe;
  }
  if (moe) globs += ",*.router.ids,*.router.weights,*.router.logits,*.expert.contribution";
  if (shared) globs += ",*.shared.out";
  if (dense) globs += ",*.mlp.out";
  return PointSet::parse(globs, shape);
}

std::vector<float> written_by(const ActivationStore& run, const ModelShape& shape, const NodeId& node,
                              int64_t position) {
  const int64_t width = width_of(shape, node);
  if (node.kind == Kind::expert) {
    const std::vector<int32_t> used = used_experts(run, node.layer, position);
    const auto found = std::lower_bound(used.begin(), used.end(), node.index);
    if (found == used.end() || *found != node.index) return std::vector<float>(static_cast<size_t>(width));
    const auto row = run.row(Point::expert_contribution, node.layer, 0, position);
    const float* own = row.data() + (found - used.begin()) * width;
    return {own, own + width};
  }
  const auto row = run.row(point_of(node.kind), node.layer, 0, position);
  const float* own = row.data() + (node.kind == Kind::head ? node.index * width : 0);
  return {own, own + width};
}

void PartMeans::add(const ActivationStore& run) {
  const auto add = [&](const NodeId& node, const float* values) {
    std::vector<double>& sum = sums_[node].values;
    const int64_t width = width_of(shape_, node);
    sum.resize(static_cast<size_t>(width));
    for (int64_t c = 0; c < width; ++c) sum[static_cast<size_t>(c)] += static_cast<double>(values[c]);
  };
  for (int64_t t = 0; t < run.n_tokens(); ++t) {
    for (const NodeId& node : nodes_of(shape_))
      if (node.kind != Kind::expert) add(node, written_by(run, shape_, node, t).data());
    for (const int32_t l : shape_.moe_layers()) {
      const std::vector<int32_t> used = used_experts(run, l, t);
      const auto row = run.row(Point::expert_contribution, l, 0, t);
      for (size_t i = 0; i < used.size(); ++i)
        add({Kind::expert, l, used[i], -1}, row.data() + static_cast<int64_t>(i) * shape_.d_model);
    }
  }
  n_tokens_ += run.n_tokens();
}

std::vector<float> PartMeans::of(const NodeId& node) const {
  std::vector<float> mean(static_cast<size_t>(width_of(shape_, node)));
  const auto found = sums_.find({node.kind, node.layer, node.index, -1});
  if (found == sums_.end()) return mean;
  for (size_t c = 0; c < mean.size(); ++c)
    mean[c] = static_cast<float>(found->second.values[c] / static_cast<double>(n_tokens_));
  return mean;
}

std::shared_ptr<const ActivationStore> made_store(const std::string& name, const ModelShape& shape,
                                                  const std::string& record,
                                                  const std::map<std::string, std::vector<float>>& tensors,
                                                  int64_t n_tokens) {
  std::string globs;
  for (const auto& [point, values] : tensors) globs += (globs.empty() ? "" : ",") + point;
  auto store = std::make_shared<ActivationStore>(name, shape, PointSet::parse(globs, shape));
  std::vector<int32_t> positions(static_cast<size_t>(n_tokens));
  for (int64_t t = 0; t < n_tokens; ++t) positions[static_cast<size_t>(t)] = static_cast<int32_t>(t);
  const RowRange range{0, 0, n_tokens, 0};
  StepRows rows;
  rows.n_rows = n_tokens;
  rows.ranges = {&range, 1};
  rows.tokens = rows.positions = positions.data();
  store->begin(rows);
  for (const auto& [point, values] : tensors) {
    const PointAt at = *parse_point(point);
    store->take(at.point, at.layer, values.data(), static_cast<int64_t>(values.size()) / n_tokens);
  }
  store->end();
  store->finish({&record, 1});
  return store;
}

AblatedPair::AblatedPair(const Session& session, const Job& base, const Job& other, int64_t n_rows,
                         std::vector<std::array<int32_t, 2>> map, CircuitAblation ablation, const PartMeans* means,
                         const std::vector<int32_t>& positions, std::vector<NodeId> out)
    : session_(session),
      job_(base),
      whole_(positions.empty()),
      ablation_(ablation),
      means_(means),
      out_(std::move(out)) {
  const PointSet points = node_points(session.shape);
  if (ablation == CircuitAblation::corrupt) other_ = record_run(session, other, 1, points, "other");
  const auto n = static_cast<size_t>(n_tokens());
  other_of_.assign(n, -1);
  // A mean and nothing need no other position.
  for (size_t t = 0; t < n && ablation != CircuitAblation::corrupt; ++t) other_of_[t] = 0;
  for (const auto& [from, to] : map)
    if (ablation == CircuitAblation::corrupt) other_of_[static_cast<size_t>(from)] = to;
  tokens_at_.resize(1);
  for (size_t t = 0; t < n; ++t) {
    mapped_.push_back(other_of_[t] >= 0);
    const auto at = whole_ ? size_t{0} : static_cast<size_t>(positions[t] + 1);
    tokens_at_.resize(std::max(tokens_at_.size(), at + 1));
    tokens_at_[at].push_back(static_cast<int32_t>(t));
  }
  std::map<std::string, std::vector<float>> tensors;
  const auto append = [&](const NodeId& node) {
    std::vector<float>& tensor = tensors[point_name(point_of(node.kind), node.layer)];
    const int64_t width = width_of(session_.shape, node);
    // Heads stand side by side in a row.
    const LayerShape* layer = node.layer >= 0 ? &session_.shape.layers[static_cast<size_t>(node.layer)] : nullptr;
    const int64_t stride = node.kind == Kind::head ? layer->attention.n_heads * width : width,
                  first = node.kind == Kind::head ? node.index * width : 0;
    tensor.resize(static_cast<size_t>(n_tokens() * stride));
    for (int64_t t = 0; t < n_tokens(); ++t) {
      if (!mapped_[static_cast<size_t>(t)]) continue;
      const std::vector<float> values = ablated(node, t);
      std::copy(values.begin(), values.end(), tensor.begin() + t * stride + first);
    }
  };
  if (ablation == CircuitAblation::corrupt) append({Kind::embed, -1, -1, -1});
  for (const NodeId& node : nodes_of(session.shape))
    if (node.kind != Kind::expert) append(node);
  values_ = made_store("ablated", session.shape, base.prompt->id, tensors, n_tokens());
  EditMemory memory;
  json::Value edits = json::Value::array();
  add_ablation(out_, edits, memory);
  run_ = record_run(session, base, n_rows, points, "base", plan(edits, memory).get());
}

std::vector<float> AblatedPair::ablated(const NodeId& node, int64_t position) const {
  switch (ablation_) {
    case CircuitAblation::corrupt:
      return written_by(*other_.store, session_.shape, node, other_of_[static_cast<size_t>(position)]);
    case CircuitAblation::mean: return means_->of(node);
    case CircuitAblation::zero: break;
  }
  return std::vector<float>(static_cast<size_t>(width_of(session_.shape, node)));
}

const std::vector<int32_t>& AblatedPair::tokens_of(const NodeId& node) const {
  static const std::vector<int32_t> none;
  const auto at = whole_ ? size_t{0} : static_cast<size_t>(node.position + 1);
  return at < tokens_at_.size() ? tokens_at_[at] : none;
}

std::vector<int32_t> AblatedPair::other_tokens_of(const NodeId& node) const {
  std::vector<int32_t> tokens;
  if (whole_) {
    tokens.resize(static_cast<size_t>(other_.store->n_tokens()));
    std::iota(tokens.begin(), tokens.end(), 0);
  } else {
    for (const int32_t t : tokens_of(node))
      if (mapped_[static_cast<size_t>(t)]) tokens.push_back(other_of_[static_cast<size_t>(t)]);
  }
  return tokens;
}

bool AblatedPair::differs(const NodeId& node) const {
  const std::vector<int32_t>& tokens = tokens_of(node);
  return std::any_of(tokens.begin(), tokens.end(), [&](int32_t t) {
    return mapped_[static_cast<size_t>(t)] && written_by(base(), session_.shape, node, t) != ablated(node, t);
  });
}

std::shared_ptr<const EditPlan> AblatedPair::plan(const json::Value& edits, const EditMemory& memory) const {
  if (edits.items().empty()) return nullptr;
  return EditPlan::parse(json::Ref(edits, "edits"), ".", session_.shape, 0, &memory);
}

std::shared_ptr<const BoundEdits> AblatedPair::bind(const json::Value& edits, const EditMemory& memory) const {
  const std::shared_ptr<const EditPlan> made = plan(edits, memory);
  return made ? made->bind(sequence_info(job_)) : nullptr;
}

AblatedPair::OutAt AblatedPair::out_at(std::span<const NodeId> alike) const {
  OutAt out(static_cast<size_t>(n_tokens()));
  for (const NodeId& node : alike)
    for (const int32_t t : tokens_of(node))
      if (mapped_[static_cast<size_t>(t)]) out[static_cast<size_t>(t)].push_back(node.index);
  return out;
}

// [n_tokens, d_model] the sum of what stands in the experts' places.
std::vector<float> AblatedPair::ablated_expert_sum(int32_t layer, const OutAt& out) const {
  const auto d_model = static_cast<size_t>(session_.shape.d_model);
  std::vector<float> sums(static_cast<size_t>(n_tokens()) * d_model);
  std::vector<double> sum(d_model);
  for (size_t t = 0; t < out.size(); ++t) {
    if (out[t].empty()) continue;
    if (ablation_ == CircuitAblation::corrupt) {
      std::fill(sum.begin(), sum.end(), 0.0);
      const int64_t at = other_of_[t];
      const std::vector<int32_t> used = used_experts(*other_.store, layer, at);
      const auto row = other_.store->row(Point::expert_contribution, layer, 0, at);
      for (size_t i = 0; i < used.size(); ++i)
        for (size_t c = 0; c < d_model && std::binary_search(out[t].begin(), out[t].end(), used[i]); ++c)
          sum[c] += static_cast<double>(row[i * d_model + c]);
    } else if (t == 0 || out[t] != out[t - 1]) {
      std::fill(sum.begin(), sum.end(), 0.0);
      for (const int32_t expert : out[t]) {
        const std::vector<float> mean = means_->of({Kind::expert, layer, expert, -1});
        for (size_t c = 0; c < d_model; ++c) sum[c] += static_cast<double>(mean[c]);
      }
    }
    for (size_t c = 0; c < d_model; ++c) sums[t * d_model + c] = static_cast<float>(sum[c]);
  }
  return sums;
}

std::vector<float> AblatedPair::ablated_experts(int32_t layer, const std::vector<uint8_t>& staying) const {
  if (ablation_ == CircuitAblation::zero)
    return std::vector<float>(static_cast<size_t>(n_tokens() * session_.shape.d_model));
  OutAt out(static_cast<size_t>(n_tokens()));
  for (size_t t = 0; t < out.size(); ++t)
    for (size_t e = 0; mapped_[t] && e < staying.size(); ++e)
      if (!staying[e]) out[t].push_back(static_cast<int32_t>(e));
  return ablated_expert_sum(layer, out);
}

void AblatedPair::add_ablation(std::span<const NodeId> nodes, json::Value& edits, EditMemory& memory) const {
  if (nodes.empty()) return;
  memory.add(values_);
  std::map<std::string, std::vector<float>> sums;
  for (size_t begin = 0; begin < nodes.size();) {
    const NodeId& first = nodes[begin];
    size_t end = begin;
    for (; end < nodes.size() && nodes[end].kind == first.kind && nodes[end].layer == first.layer; ++end) {
    }
    const OutAt out = out_at(nodes.subspan(begin, end - begin));
    const std::string layer = std::to_string(first.layer);
    each_run(
        out.size(), [&](size_t t) { return !out[t].empty(); }, [&](size_t s, size_t t) { return out[s] == out[t]; },
        [&](size_t from, size_t behind) {
          if (first.kind == Kind::expert) {
            json::Value list = json::Value::array();
            for (const int32_t expert : out[from]) list.push_back(int64_t{expert});
            edits.push_back(at_tokens(json::Value::object()
                                          .set("op", "scale_expert")
                                          .set("by", 0)
                                          .set("layers", layer)
                                          .set("experts", std::move(list)),
                                      from, behind));
          } else {
            json::Value edit = edit_of("patch", point_of(first.kind), first.layer).set("from", "memory:ablated");
            if (first.kind == Kind::head) edit.set("neurons", neurons_of(out[from], width_of(session_.shape, first)));
            edits.push_back(at_tokens(std::move(edit), from, behind));
          }
        });
    if (first.kind == Kind::expert && ablation_ != CircuitAblation::zero) {
      bool any = false;
      each_run(
          out.size(), [&](size_t t) { return !out[t].empty(); }, [](size_t, size_t) { return true; },
          [&](size_t from, size_t behind) {
            any = true;
            edits.push_back(
                at_tokens(edit_of("add", Point::moe_out, first.layer).set("from", "memory:experts"), from, behind));
          });
      if (any) sums[point_name(Point::moe_out, first.layer)] = ablated_expert_sum(first.layer, out);
    }
    begin = end;
  }
  if (!sums.empty()) memory.add(made_store("experts", session_.shape, job_.prompt->id, sums, n_tokens()));
}

std::shared_ptr<const BoundEdits> AblatedPair::ablate(std::span<const NodeId> nodes) const {
  EditMemory memory;
  json::Value edits = json::Value::array();
  std::vector<NodeId> all;
  std::set_union(nodes.begin(), nodes.end(), out_.begin(), out_.end(), std::back_inserter(all));
  add_ablation(all, edits, memory);
  return bind(edits, memory);
}

std::shared_ptr<const BoundEdits> AblatedPair::replace(const NodeId& node, std::span<const float> values) const {
  EditMemory memory;
  json::Value edits = json::Value::array();
  add_ablation(out_, edits, memory);
  const int64_t width = width_of(session_.shape, node);
  std::vector<float> tensor;
  const bool expert = node.kind == Kind::expert, head = node.kind == Kind::head;
  const Point point = expert ? Point::moe_out : point_of(node.kind);
  if (head) {
    const int64_t stride = session_.shape.layers[static_cast<size_t>(node.layer)].attention.n_heads * width;
    tensor.resize(static_cast<size_t>(n_tokens() * stride));
    for (int64_t t = 0; t < n_tokens(); ++t)
      std::copy_n(values.data() + t * width, width, tensor.data() + t * stride + node.index * width);
  } else {
    tensor.assign(values.begin(), values.end());
    // What the expert writes stays where it is; the difference is added.
    for (int64_t t = 0; expert && t < n_tokens(); ++t) {
      const std::vector<float> own = written_by(base(), session_.shape, node, t);
      for (int64_t c = 0; c < width; ++c) tensor[static_cast<size_t>(t * width + c)] -= own[static_cast<size_t>(c)];
    }
  }
  memory.add(made_store("values", session_.shape, job_.prompt->id, {{point_name(point, node.layer), std::move(tensor)}},
                        n_tokens()));
  json::Value edit = edit_of(expert ? "add" : "patch", point, node.layer).set("from", "memory:values");
  const int32_t heads[] = {node.index};
  if (head) edit.set("neurons", neurons_of(heads, width));
  std::vector<uint8_t> own(static_cast<size_t>(n_tokens()));
  for (const int32_t t : tokens_of(node)) own[static_cast<size_t>(t)] = 1;
  each_run(
      own.size(), [&](size_t t) { return own[t] != 0; }, [](size_t, size_t) { return true; },
      [&](size_t from, size_t behind) { edits.push_back(at_tokens(edit, from, behind)); });
  return bind(edits, memory);
}

}  // namespace signalbox::eval
