#include "tools/serve/recorded_rows.h"

#include <algorithm>
#include <cstring>

#include "base/base64.h"

namespace signalbox::tools {

namespace {

int64_t volume(const std::vector<int64_t>& shape) {
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  return n;
}

template <class T>
json::Value nested(const T*& at, const std::vector<int64_t>& shape, size_t depth) {
  if (depth == shape.size()) {
    const T value = *at++;
    if constexpr (std::is_floating_point_v<T>)
      return static_cast<double>(value);
    else
      return int64_t{value};
  }
  json::Value list = json::Value::array();
  for (int64_t i = 0; i < shape[depth]; ++i) list.push_back(nested(at, shape, depth + 1));
  return list;
}

template <class T>
json::Value lists_of(const AnswerTensor& tensor) {
  std::vector<T> values(static_cast<size_t>(volume(tensor.shape)));
  std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  const T* at = values.data();
  return nested(at, tensor.shape, 0);
}

template <class T>
void append_bytes(std::string& out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof value);
  out.append(bytes, sizeof bytes);
}

}  // namespace

json::Value tensor_json(const AnswerTensor& tensor, bool as_lists) {
  json::Value shape = json::Value::array(), out = json::Value::object();
  for (const int64_t d : tensor.shape) shape.push_back(d);
  out.set("dtype", tensor.dtype).set("shape", std::move(shape));
  out.set("data", !as_lists               ? json::Value(base64(tensor.bytes))
                  : tensor.dtype == "U8"  ? lists_of<uint8_t>(tensor)
                  : tensor.dtype == "U16" ? lists_of<uint16_t>(tensor)
                                          : lists_of<float>(tensor));
  return out;
}

RecordedRows::RecordedRows(const ModelShape& shape, PointSet points, int32_t n_slots, bool edited)
    : shape_(shape), points_(std::move(points)), n_slots_(n_slots), edited_(edited), layers_(points_.router_layers()) {}

int64_t RecordedRows::n_rows() const {
  std::lock_guard lock(mutex_);
  return n_rows_;
}

size_t RecordedRows::bytes() const {
  std::lock_guard lock(mutex_);
  size_t n = 0;
  for (const auto* of : {&ids_, &original_ids_})
    for (const auto& [layer, ids] : *of) n += ids.capacity() * sizeof(int32_t);
  for (const auto& [at, values] : values_) n += values.capacity() * sizeof(float);
  return n;
}

void RecordedRows::end_rows(int64_t n) {
  std::lock_guard lock(mutex_);
  n_rows_ += n;
}

void RecordedRows::take(Point point, int32_t layer, const float* row, int64_t width, int64_t n_slots) {
  std::lock_guard lock(mutex_);
  put(point, layer, row, width, n_slots);
}

void RecordedRows::take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) {
  std::lock_guard lock(mutex_);
  put_ids(layer, ids, original_ids, n_slots);
}

void RecordedRows::put(Point point, int32_t layer, const float* row, int64_t width, int64_t n_slots) {
  std::vector<float>& to = values_[{point, layer}];
  const PointInfo& info = point_info(point);
  // A forward may have room for wider routes than this job has.
  const bool by_slot = info.shape == PointInfo::Shape::slots || info.slots();
  const int64_t kept = by_slot && n_slots > 0 ? width / n_slots * n_slots_ : width;
  to.insert(to.end(), row, row + kept);
}

void RecordedRows::put_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) {
  const int64_t kept = std::min<int64_t>(n_slots, n_slots_);
  ids_[layer].insert(ids_[layer].end(), ids, ids + kept);
  const int32_t* before = original_ids ? original_ids : ids;
  if (edited_) original_ids_[layer].insert(original_ids_[layer].end(), before, before + kept);
}

AnswerTensor RecordedRows::ids_tensor(const std::string& name, const std::map<int32_t, std::vector<int32_t>>& of_layer,
                                      const std::vector<int32_t>& layers, int64_t begin, int64_t end) const {
  const bool wide = shape_.n_experts() >= 256;
  AnswerTensor out{name, wide ? "U16" : "U8", {end - begin, static_cast<int64_t>(layers.size()), n_slots_}, ""};
  for (int64_t row = begin; row < end; ++row)
    for (const int32_t layer : layers)
      for (int32_t k = 0; k < n_slots_; ++k) {
        const int32_t id = of_layer.at(layer)[static_cast<size_t>(row * n_slots_ + k)];
        if (wide)
          append_bytes(out.bytes, static_cast<uint16_t>(id < 0 ? 0xffff : id));
        else
          append_bytes(out.bytes, static_cast<uint8_t>(id < 0 ? 0xff : id));
      }
  return out;
}

std::vector<int32_t> RecordedRows::layers_among(const std::vector<int32_t>& only) const {
  const std::vector<PointAt> all = points_.all();
  for (const int32_t layer : only)
    if (std::none_of(all.begin(), all.end(), [&](const PointAt& at) { return at.layer == layer; }))
      throw Error("layers", "expected layers with recorded points, found " + std::to_string(layer));
  if (only.empty()) return layers_;
  std::vector<int32_t> out;
  for (const int32_t layer : layers_)
    if (std::find(only.begin(), only.end(), layer) != only.end()) out.push_back(layer);
  return out;
}

std::vector<AnswerTensor> RecordedRows::tensors(int64_t begin, int64_t end, const std::vector<int32_t>& only) const {
  const std::vector<int32_t> chosen = layers_among(only);
  std::lock_guard lock(mutex_);
  std::vector<AnswerTensor> out;
  end = std::min(end, n_rows_);
  begin = std::min(begin, end);
  std::vector<Point> stacked_done;
  for (const PointAt& at : points_.all()) {
    const PointInfo& info = point_info(at.point);
    if (!only.empty() && std::find(only.begin(), only.end(), at.layer) == only.end()) continue;
    if (info.stacked) {
      if (std::find(stacked_done.begin(), stacked_done.end(), at.point) != stacked_done.end()) continue;
      stacked_done.push_back(at.point);
      if (at.point == Point::router_ids) {
        if (begin == end) continue;
        out.push_back(ids_tensor("router.ids", ids_, chosen, begin, end));
        if (edited_) out.push_back(ids_tensor("router.original_ids", original_ids_, chosen, begin, end));
        continue;
      }
    }
    const std::vector<int32_t> layers = info.stacked ? chosen : std::vector<int32_t>{at.layer};
    const std::vector<int64_t> dims = point_dims(at.point, at.layer, shape_, n_slots_);
    const auto width = static_cast<size_t>(volume(dims));
    AnswerTensor tensor{
        info.stacked ? std::string(info.name) : point_name(at.point, at.layer), "F32", {end - begin}, ""};
    if (info.stacked) tensor.shape.push_back(static_cast<int64_t>(layers.size()));
    tensor.shape.insert(tensor.shape.end(), dims.begin(), dims.end());
    for (int64_t row = begin; row < end; ++row)
      for (const int32_t layer : layers) {
        const std::vector<float>& from = values_.at({at.point, layer});
        tensor.bytes.append(reinterpret_cast<const char*>(from.data() + static_cast<size_t>(row) * width),
                            width * sizeof(float));
      }
    if (begin < end) out.push_back(std::move(tensor));
  }
  return out;
}

void RecordedRows::start_from(const RecordedRows& others, int64_t first, int64_t end) {
  const std::scoped_lock lock(mutex_, others.mutex_);
  const int64_t begin = n_rows_;
  if (first > begin || first + others.n_rows_ < end || end <= begin) return;
  const int64_t wide = others.n_slots_;
  for (const auto& [layer, ids] : others.ids_)
    for (int64_t row = begin - first; row < end - first; ++row)
      put_ids(layer, ids.data() + row * wide, others.original_ids_.at(layer).data() + row * wide, wide);
  for (const auto& [at, values] : others.values_) {
    const int64_t width = volume(point_dims(at.first, at.second, shape_, others.n_slots_));
    for (int64_t row = begin - first; row < end - first; ++row)
      put(at.first, at.second, values.data() + row * width, width, wide);
  }
  n_rows_ = end;
}

void RowRouter::expect_shared(int64_t first, int64_t n, const RecordedRows& like) {
  const auto n_slots = static_cast<int32_t>(n_slots_);
  shared_[first] = {n, like.empty_like(n_slots), {}};
}

void RowRouter::forget_shared(int64_t first) { shared_.erase(first); }

RowRouter::Shared* RowRouter::shared_of(int64_t index) {
  auto found = shared_.upper_bound(index);
  if (found == shared_.begin()) return nullptr;
  --found;
  return index < found->first + found->second.n ? &found->second : nullptr;
}

void RowRouter::start_from(int64_t index, int64_t shared, int64_t end) {
  const Shared* group = shared_of(shared);
  const auto job = jobs_.find(index);
  if (!group || job == jobs_.end()) return;
  if (const auto rows = group->of.find(shared); rows != group->of.end())
    job->second->start_from(*rows->second.rows, rows->second.first, end);
}

void RowRouter::add(int64_t index, std::shared_ptr<RecordedRows> rows) { jobs_[index] = std::move(rows); }
void RowRouter::remove(int64_t index) { jobs_.erase(index); }

RecordedRows* RowRouter::find(int64_t index) const {
  if (const auto found = jobs_.find(index); found != jobs_.end()) return found->second.get();
  auto group = shared_.upper_bound(index);
  if (group == shared_.begin()) return nullptr;
  const auto shared = (--group)->second.of.find(index);
  return shared == group->second.of.end() ? nullptr : shared->second.rows.get();
}

bool RowRouter::wants(Point point, int32_t layer) const {
  return std::any_of(jobs_.begin(), jobs_.end(),
                     [&](const auto& job) { return job.second->points().wants(point, layer); });
}

void RowRouter::begin(const StepRows& rows) {
  ranges_.assign(rows.ranges.begin(), rows.ranges.end());
  for (const RowRange& range : ranges_)
    if (Shared* group = find(range.sample) ? nullptr : shared_of(range.sample))
      group->of[range.sample] = {range.first_row, group->like->empty_like(static_cast<int32_t>(n_slots_))};
}

void RowRouter::take(Point point, int32_t layer, const float* data, int64_t width) {
  for (const RowRange& range : ranges_)
    if (RecordedRows* job = find(range.sample); job && job->points().wants(point, layer)) {
      const int64_t n_slots = n_slots_ > 0 ? n_slots_ : 0;
      for (int64_t row = 0; row < range.n_rows; ++row)
        job->take(point, layer, data + (range.batch_row + row) * width, width, n_slots);
    }
}

void RowRouter::take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) {
  for (const RowRange& range : ranges_)
    if (RecordedRows* job = find(range.sample); job && job->points().wants(Point::router_ids, layer))
      for (int64_t row = 0; row < range.n_rows; ++row) {
        const int64_t at = (range.batch_row + row) * n_slots;
        job->take_ids(layer, ids + at, original_ids ? original_ids + at : nullptr, n_slots);
      }
}

void RowRouter::end() {
  for (const RowRange& range : ranges_)
    if (RecordedRows* job = find(range.sample)) job->end_rows(range.n_rows);
  ranges_.clear();
}

}  // namespace signalbox::tools
