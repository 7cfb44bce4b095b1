#include "probes/activation_store.h"

#include <algorithm>

#include "base/error.h"

namespace signalbox::probes {

ActivationStore::ActivationStore(std::string name, ModelShape shape, PointSet points, int32_t n_slots)
    : name_(std::move(name)),
      where_("memory:" + name_),
      shape_(std::move(shape)),
      points_(std::move(points)),
      n_slots_(n_slots > 0 ? n_slots : shape_.n_active()),
      layers_(points_.router_layers()) {
  ids_.width = static_cast<int64_t>(layers_.size()) * n_slots_;
}

void ActivationStore::fail(const std::string& reason) const { throw Error(where_, reason); }

template <class T>
void ActivationStore::Column<T>::put(const RowRange& range, int64_t at, const T* data, int64_t n) {
  const size_t sample = static_cast<size_t>(range.sample);
  if (samples.size() <= sample) samples.resize(sample + 1);
  std::vector<T>& values = samples[sample];
  const size_t wanted = static_cast<size_t>((range.first_row + range.n_rows) * width);
  if (values.size() < wanted) values.resize(wanted);
  for (int64_t r = 0; r < range.n_rows; ++r)
    std::copy_n(data + (range.batch_row + r) * n, n, values.data() + (range.first_row + r) * width + at);
}

template <class T>
void ActivationStore::Column<T>::join(size_t n_samples) {
  samples.resize(n_samples);
  size_t n = 0;
  for (const auto& sample : samples) n += sample.size();
  all.reserve(n);
  for (auto& sample : samples) {
    all.insert(all.end(), sample.begin(), sample.end());
    sample = {};
  }
  samples = {};
}

template <class T>
void ActivationStore::Column<T>::put_growing(const RowRange& range, int64_t heads, const T* data, int64_t n_keys) {
  const size_t sample = static_cast<size_t>(range.sample);
  if (samples.size() <= sample) samples.resize(sample + 1);
  for (int64_t r = 0; r < range.n_rows; ++r)
    for (int64_t h = 0; h < heads; ++h) {
      const T* row = data + ((range.batch_row + r) * heads + h) * n_keys;
      samples[sample].insert(samples[sample].end(), row, row + range.first_row + r + 1);
    }
}

template <class T>
void ActivationStore::Column<T>::join_growing(const std::vector<int64_t>& offsets) {
  samples.resize(offsets.size() - 1);
  int64_t longest = 0;
  for (size_t s = 0; s < samples.size(); ++s) longest = std::max(longest, offsets[s + 1] - offsets[s]);
  tail.back() = longest;
  width = tail.front() * longest;
  all.reserve(static_cast<size_t>(offsets.back() * width));
  for (size_t s = 0; s < samples.size(); ++s) {
    const T* from = samples[s].data();
    for (int64_t n = 1; n <= offsets[s + 1] - offsets[s]; ++n)
      for (int64_t h = 0; h < tail.front(); ++h, from += n) {
        all.insert(all.end(), from, from + n);
        all.resize(all.size() + static_cast<size_t>(longest - n), T{});
      }
    samples[s] = {};
  }
  samples = {};
}

void ActivationStore::begin(const StepRows& rows) {
  if (rows.n_rows > 0) n_keys_ = 1 + *std::max_element(rows.positions, rows.positions + rows.n_rows);
  if (finished_) fail("expected no rows after the store was finished, found " + std::to_string(rows.n_rows));
  ranges_.assign(rows.ranges.begin(), rows.ranges.end());
  for (const RowRange& range : ranges_) {
    const size_t sample = static_cast<size_t>(range.sample);
    const size_t known = sample < positions_.samples.size() ? positions_.samples[sample].size() : 0;
    if (static_cast<size_t>(range.first_row) != known)
      fail("expected row " + std::to_string(known) + " of sample " + std::to_string(range.sample) + ", found row " +
           std::to_string(range.first_row));
    positions_.put(range, 0, rows.positions, 1);
  }
}

// Where a layer's part of a row stands in a tensor that stacks the layers with a router.
int64_t ActivationStore::stacked_at(int32_t layer, int64_t width) const {
  return (std::lower_bound(layers_.begin(), layers_.end(), layer) - layers_.begin()) * width;
}

ActivationStore::Column<float>& ActivationStore::column(Point point, int32_t layer, int64_t width) {
  const PointInfo& info = point_info(point);
  const int64_t n_layers = static_cast<int64_t>(layers_.size());
  Column<float>& column = tensors_[info.stacked ? std::string(info.name) : point_name(point, layer)];
  if (!column.tail.empty()) return column;
  if (info.stacked) {
    column.tail = {n_layers};
    if (info.shape != PointInfo::Shape::scalar) column.tail.push_back(width);
    column.width = n_layers * width;
  } else {
    column.tail = point_dims(point, layer, shape_, n_slots_);
    column.width = width;
  }
  return column;
}

void ActivationStore::take(Point point, int32_t layer, const float* data, int64_t width) {
  if (point_info(point).positions()) {
    Column<float>& to = tensors_[point_name(point, layer)];
    to.tail = point_dims(point, layer, shape_, n_slots_);
    if (width != to.tail.front() * n_keys_)
      fail("expected rows of " + std::to_string(to.tail.front() * n_keys_) + " for " + point_name(point, layer) +
           ", found " + std::to_string(width));
    for (const RowRange& range : ranges_) to.put_growing(range, to.tail.front(), data, n_keys_);
    return;
  }
  Column<float>& to = column(point, layer, width);
  const int64_t at = point_info(point).stacked ? stacked_at(layer, width) : 0;
  for (const RowRange& range : ranges_) to.put(range, at, data, width);
}

void ActivationStore::take_ids(int32_t layer, const int32_t* ids, const int32_t*, int64_t n_slots) {
  if (n_slots != n_slots_)
    fail("expected routes of " + std::to_string(n_slots_) + " slots, found " + std::to_string(n_slots));
  routes_ = true;
  tensors_["router.ids"].tail = {static_cast<int64_t>(layers_.size()), n_slots_};  // its values are in ids_
  for (const RowRange& range : ranges_) ids_.put(range, stacked_at(layer, n_slots), ids, n_slots);
}

void ActivationStore::finish(std::span<const std::string> ids) {
  if (finished_) fail("expected to be finished once, found a second time");
  if (lost_) fail("expected all batches to come to their end, found one that was abandoned");
  if (ids.size() < positions_.samples.size())
    fail("expected ids of " + std::to_string(positions_.samples.size()) + " samples, found " +
         std::to_string(ids.size()));
  finished_ = true;
  positions_.samples.resize(ids.size());
  for (size_t s = 0; s < ids.size(); ++s) {
    offsets_.push_back(offsets_.back() + static_cast<int64_t>(positions_.samples[s].size()));
    by_id_[ids[s]].push_back(static_cast<int64_t>(s));
  }
  positions_.join(ids.size());
  ids_.join(ids.size());
  for (auto& [tensor, column] : tensors_) {
    const auto at = parse_point(tensor);
    if (at && point_info(at->point).positions())
      column.join_growing(offsets_);
    else
      column.join(ids.size());
  }
}

Recording::Rows ActivationStore::rows(int64_t sample) const {
  if (sample < 0 || sample >= n_samples())
    fail("expected a sample below " + std::to_string(n_samples()) + ", found " + std::to_string(sample));
  return {offsets_[static_cast<size_t>(sample)], offsets_[static_cast<size_t>(sample) + 1]};
}

std::optional<int64_t> ActivationStore::find_sample(std::string_view id, int64_t nth) const {
  if (nth < 0 || nth >= count_samples(id)) return std::nullopt;
  return by_id_.find(id)->second[static_cast<size_t>(nth)];
}

int64_t ActivationStore::count_samples(std::string_view id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? 0 : static_cast<int64_t>(found->second.size());
}

std::vector<int32_t> ActivationStore::positions(Rows rows) const {
  return {positions_.all.begin() + rows.begin, positions_.all.begin() + rows.end};
}

const ActivationStore::Column<float>& ActivationStore::at(std::string_view tensor) const {
  const auto found = tensors_.find(tensor);
  if (found == tensors_.end()) fail("expected a tensor \"" + std::string(tensor) + "\", found none");
  return found->second;
}

std::vector<int64_t> ActivationStore::tensor_shape(std::string_view tensor) const {
  std::vector<int64_t> shape = {n_tokens()};
  const auto& tail = at(tensor).tail;
  shape.insert(shape.end(), tail.begin(), tail.end());
  return shape;
}

std::vector<int32_t> ActivationStore::ids(Rows rows) const {
  return {ids_.all.begin() + rows.begin * ids_.width, ids_.all.begin() + rows.end * ids_.width};
}

std::vector<float> ActivationStore::floats(std::string_view tensor, Rows rows) const {
  const float* first = floats_in_place(tensor, rows);
  return {first, first + rows.size() * at(tensor).width};
}

const float* ActivationStore::floats_in_place(std::string_view tensor, Rows rows) const {
  const Column<float>& column = at(tensor);
  if (tensor == point_info(Point::router_ids).name) fail("expected a tensor of floats, found router.ids");
  if (rows.begin < 0 || rows.begin > rows.end || rows.end > n_tokens())
    fail("expected rows of " + std::to_string(n_tokens()) + ", found " + std::to_string(rows.begin) + " to " +
         std::to_string(rows.end));
  return column.all.data() + rows.begin * column.width;
}

std::span<const float> ActivationStore::row(Point point, int32_t layer, int64_t sample, int64_t position) const {
  const PointInfo& info = point_info(point);
  const Column<float>& column = at(info.stacked ? info.name : point_name(point, layer));
  const Rows of = rows(sample);
  const auto first = positions_.all.begin() + of.begin, last = positions_.all.begin() + of.end;
  const auto found = std::lower_bound(first, last, position);
  if (found == last || *found != position)
    fail("expected position " + std::to_string(position) + " in sample " + std::to_string(sample) + ", found none");
  const int64_t r = found - positions_.all.begin();
  const int64_t width = info.stacked ? column.width / static_cast<int64_t>(layers_.size()) : column.width;
  return {column.all.data() + r * column.width + (info.stacked ? stacked_at(layer, width) : 0),
          static_cast<size_t>(width)};
}

}  // namespace signalbox::probes
