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

void RecordedRows::take(Point point, int32_t layer, const float* row, int64_t width, int64_t n_slots) {
  std::vector<float>& to = values_[{point, layer}];
  const PointInfo& info = point_info(point);
  // A forward may have room for wider routes than this job has.
  const bool by_slot = info.shape == PointInfo::Shape::slots || info.slots();
  const int64_t kept = by_slot && n_slots > 0 ? width / n_slots * n_slots_ : width;
  to.insert(to.end(), row, row + kept);
}

void RecordedRows::take_ids(int32_t layer, const int32_t* ids, const int32_t* original_ids, int64_t n_slots) {
  const int64_t kept = std::min<int64_t>(n_slots, n_slots_);
  ids_[layer].insert(ids_[layer].end(), ids, ids + kept);
  const int32_t* before = original_ids ? original_ids : ids;
  if (edited_) original_ids_[layer].insert(original_ids_[layer].end(), before, before + kept);
}

AnswerTensor RecordedRows::ids_tensor(const std::string& name, const std::map<int32_t, std::vector<int32_t>>& of_layer,
                                      int64_t begin, int64_t end) const {
  const bool wide = shape_.n_experts() >= 256;
  AnswerTensor out{name, wide ? "U16" : "U8", {end - begin, static_cast<int64_t>(layers_.size()), n_slots_}, ""};
  for (int64_t row = begin; row < end; ++row)
    for (const int32_t layer : layers_)
      for (int32_t k = 0; k < n_slots_; ++k) {
        const int32_t id = of_layer.at(layer)[static_cast<size_t>(row * n_slots_ + k)];
        if (wide)
          append_bytes(out.bytes, static_cast<uint16_t>(id < 0 ? 0xffff : id));
        else
          append_bytes(out.bytes, static_cast<uint8_t>(id < 0 ? 0xff : id));
      }
  return out;
}

std::vector<AnswerTensor> RecordedRows::tensors(int64_t begin, int64_t end) const {
  std::vector<AnswerTensor> out;
  end = std::min(end, n_rows_);
  begin = std::min(begin, end);
  std::vector<Point> stacked_done;
  for (const PointAt& at : points_.all()) {
    const PointInfo& info = point_info(at.point);
    if (info.stacked) {
      if (std::find(stacked_done.begin(), stacked_done.end(), at.point) != stacked_done.end()) continue;
      stacked_done.push_back(at.point);
      if (at.point == Point::router_ids) {
        if (begin == end) continue;
        out.push_back(ids_tensor("router.ids", ids_, begin, end));
        if (edited_) out.push_back(ids_tensor("router.original_ids", original_ids_, begin, end));
        continue;
      }
    }
    const std::vector<int32_t> layers = info.stacked ? layers_ : std::vector<int32_t>{at.layer};
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

void RowRouter::add(int64_t index, std::shared_ptr<RecordedRows> rows) { jobs_[index] = std::move(rows); }
void RowRouter::remove(int64_t index) { jobs_.erase(index); }

RecordedRows* RowRouter::find(int64_t index) const {
  const auto found = jobs_.find(index);
  return found == jobs_.end() ? nullptr : found->second.get();
}

bool RowRouter::wants(Point point, int32_t layer) const {
  return std::any_of(jobs_.begin(), jobs_.end(),
                     [&](const auto& job) { return job.second->points().wants(point, layer); });
}

void RowRouter::begin(const StepRows& rows) { ranges_.assign(rows.ranges.begin(), rows.ranges.end()); }

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
