#include "eval/circuit/ablated_pair.h"

#include <algorithm>
#include <array>

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

json::Value neurons_of(std::span<const NodeId> heads, int64_t d_z) {
  json::Value neurons = json::Value::array();
  for (const NodeId& head : heads)
    for (int64_t c = 0; c < d_z; ++c) neurons.push_back(head.index * d_z + c);
  return neurons;
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

PointSet node_points(const ModelShape& shape) {
  std::string globs = "embed,*.resid_in,*.resid_mid,*.resid_out,*.attn.z";
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
  const auto found = sums_.find(node);
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
                         std::vector<std::array<int32_t, 2>> map, CircuitAblation ablation, const PartMeans* means)
    : session_(session), job_(base), ablation_(ablation), means_(means) {
  const PointSet points = node_points(session.shape);
  run_ = record_run(session, base, n_rows, points, "base");
  if (ablation == CircuitAblation::corrupt) other_ = record_run(session, other, 1, points, "other");
  const auto n = static_cast<size_t>(n_tokens());
  other_of_.assign(n, -1);
  // A mean and nothing need no other position.
  for (size_t t = 0; t < n && ablation != CircuitAblation::corrupt; ++t) other_of_[t] = 0;
  for (const auto& [from, to] : map)
    if (ablation == CircuitAblation::corrupt) other_of_[static_cast<size_t>(from)] = to;
  for (size_t t = 0; t < n; ++t) {
    mapped_.push_back(other_of_[t] >= 0);
    if (!mapped_[t]) continue;
    if (t > 0 && mapped_[t - 1])
      ranges_.back().second = static_cast<int64_t>(t) + 1;
    else
      ranges_.emplace_back(t, t + 1);
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

void AblatedPair::put(json::Value& edits, json::Value edit) const {
  for (const auto& [begin, end] : ranges_) {
    json::Value one = edit;
    one.set("tokens", json::Value::object().set("positions", std::to_string(begin) + ":" + std::to_string(end)));
    edits.push_back(std::move(one));
  }
}

std::shared_ptr<const BoundEdits> AblatedPair::bind(const json::Value& edits, const EditMemory& memory) const {
  if (edits.items().empty()) return nullptr;
  return EditPlan::parse(json::Ref(edits, "edits"), ".", session_.shape, 0, &memory)->bind(sequence_info(job_));
}

// The sum of what stands in these experts' places, for each layer that one of them is of.
std::shared_ptr<const ActivationStore> AblatedPair::ablated_expert_sums(std::span<const NodeId> experts) const {
  std::map<std::string, std::vector<float>> tensors;
  const auto d_model = static_cast<size_t>(session_.shape.d_model);
  std::vector<double> sum(d_model);
  for (size_t begin = 0; begin < experts.size();) {
    const int32_t layer = experts[begin].layer;
    size_t end = begin;
    std::vector<uint8_t> out(static_cast<size_t>(session_.shape.layers[static_cast<size_t>(layer)].n_experts));
    for (; end < experts.size() && experts[end].layer == layer; ++end) out[static_cast<size_t>(experts[end].index)] = 1;
    std::vector<float>& tensor = tensors[point_name(Point::moe_out, layer)];
    tensor.resize(static_cast<size_t>(n_tokens()) * d_model);
    std::fill(sum.begin(), sum.end(), 0.0);
    if (ablation_ == CircuitAblation::mean)
      for (size_t i = begin; i < end; ++i) {
        const std::vector<float> mean = means_->of(experts[i]);
        for (size_t c = 0; c < d_model; ++c) sum[c] += static_cast<double>(mean[c]);
      }
    for (int64_t t = 0; t < n_tokens(); ++t) {
      if (!mapped_[static_cast<size_t>(t)] || ablation_ == CircuitAblation::zero) continue;
      if (ablation_ == CircuitAblation::corrupt) {
        std::fill(sum.begin(), sum.end(), 0.0);
        const int64_t at = other_of_[static_cast<size_t>(t)];
        const std::vector<int32_t> used = used_experts(*other_.store, layer, at);
        const auto row = other_.store->row(Point::expert_contribution, layer, 0, at);
        for (size_t i = 0; i < used.size(); ++i)
          for (size_t c = 0; c < d_model && out[static_cast<size_t>(used[i])]; ++c)
            sum[c] += static_cast<double>(row[i * d_model + c]);
      }
      for (size_t c = 0; c < d_model; ++c) tensor[static_cast<size_t>(t) * d_model + c] = static_cast<float>(sum[c]);
    }
    begin = end;
  }
  return made_store("experts", session_.shape, job_.prompt->id, tensors, n_tokens());
}

std::shared_ptr<const BoundEdits> AblatedPair::ablate(std::span<const NodeId> nodes) const {
  if (nodes.empty()) return nullptr;
  EditMemory memory;
  memory.add(values_);
  json::Value edits = json::Value::array();
  std::vector<NodeId> experts;
  for (size_t begin = 0; begin < nodes.size();) {
    const NodeId& first = nodes[begin];
    size_t end = begin;
    for (; end < nodes.size() && nodes[end].kind == first.kind && nodes[end].layer == first.layer; ++end) {
    }
    const std::span<const NodeId> alike = nodes.subspan(begin, end - begin);
    if (first.kind == Kind::expert) {
      json::Value list = json::Value::array();
      for (const NodeId& expert : alike) list.push_back(int64_t{expert.index});
      put(edits, json::Value::object()
                     .set("op", "scale_expert")
                     .set("by", 0)
                     .set("layers", std::to_string(first.layer))
                     .set("experts", std::move(list)));
      if (ablation_ != CircuitAblation::zero)
        put(edits, edit_of("add", Point::moe_out, first.layer).set("from", "memory:experts"));
      experts.insert(experts.end(), alike.begin(), alike.end());
    } else {
      json::Value edit = edit_of("patch", point_of(first.kind), first.layer).set("from", "memory:ablated");
      if (first.kind == Kind::head) edit.set("neurons", neurons_of(alike, width_of(session_.shape, first)));
      put(edits, std::move(edit));
    }
    begin = end;
  }
  if (!experts.empty() && ablation_ != CircuitAblation::zero) memory.add(ablated_expert_sums(experts));
  return bind(edits, memory);
}

std::shared_ptr<const BoundEdits> AblatedPair::replace(const NodeId& node, std::span<const float> values) const {
  EditMemory memory;
  json::Value edits = json::Value::array();
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
  if (head) edit.set("neurons", neurons_of({&node, 1}, width));
  edits.push_back(std::move(edit));
  return bind(edits, memory);
}

}  // namespace signalbox::eval
