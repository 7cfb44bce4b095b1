#include "probes/edit_values.h"

#include <cmath>
#include <cstring>

#include "base/half.h"
#include "probes/trace.h"

namespace signalbox::probes {

namespace {

constexpr int64_t chunk_floats = int64_t{1} << 20;  // of a trace, while means are taken

std::vector<float> read_floats(const safetensors::File& file, const safetensors::TensorInfo& tensor,
                               const json::Ref& key) {
  if (tensor.type != DType::f32 && tensor.type != DType::f16 && tensor.type != DType::bf16)
    key.fail("expected a tensor of F32, F16 or BF16, found " + tensor.dtype + " in " + file.name());
  file.check_unchanged();
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  const std::byte* data = file.data(tensor);
  if (tensor.type == DType::f32) {
    std::memcpy(values.data(), data, values.size() * sizeof(float));
  } else {
    for (size_t i = 0; i < values.size(); ++i) {
      uint16_t bits;
      std::memcpy(&bits, data + 2 * i, 2);
      values[i] = tensor.type == DType::f16 ? float_of_f16(bits) : float_of_bf16(bits);
    }
  }
  for (size_t i = 0; i < values.size(); ++i)
    if (!std::isfinite(values[i]))
      key.fail("expected finite values, found " + std::to_string(values[i]) + " at element " + std::to_string(i) +
               " of " + file.name() + ":" + tensor.name);
  return values;
}

}  // namespace

std::shared_ptr<const Recording> ValueSource::recording(const EditSpec& spec, const json::Ref& key) {
  if (!spec.memory.empty()) {
    if (auto found = memory_->recording(spec.memory)) return found;
    key.fail("expected a recording in memory (" + memory_->recording_names() + "), found \"" + spec.memory + "\"");
  }
  auto& trace = traces_[spec.file.string()];
  if (!trace) trace = std::make_shared<TraceReader>(spec.file);
  return trace;
}

void ValueSource::zero(PointEdit& edit, int64_t width) {
  auto& values = zeros_[width];
  if (!values) values = &plan_.floats.emplace_back(static_cast<size_t>(width), 0.0f);
  edit.values = values->data();
  edit.n_values = 1;
  edit.width = width;
}

void ValueSource::tensor(PointEdit& edit, const json::Ref& key, const EditSpec& spec, int32_t layer) {
  const int64_t width = point_width(spec.point, layer, plan_.shape, 0);
  const bool slots = point_info(spec.point).slots();
  const int32_t n_experts = slots ? plan_.shape.layers[layer].n_experts : 0;
  const EditMemory::Vector* vector = nullptr;  // of memory, or
  const safetensors::File* file = nullptr;     // a tensor of a file
  const safetensors::TensorInfo* info = nullptr;
  std::string name = spec.source.file.string() + ":" + spec.source.tensor;
  EditMemory::Vector given;  // by the edit itself
  if (key.value().type() == json::Type::array) {
    for (const json::Ref& item : key.items()) given.values.push_back(static_cast<float>(item.number()));
    given.shape = {static_cast<int64_t>(given.values.size())};
    vector = &given;
    name = "given:" + key.path();
  } else if (!spec.memory.empty()) {
    name = "memory:" + spec.memory;
    vector = memory_->vector(spec.memory);
    if (!vector)
      key.fail("expected a vector in memory (" + memory_->vector_names() + "), found \"" + spec.memory + "\"");
  } else {
    auto& opened = files_[spec.source.file.string()];
    if (!opened) opened = safetensors::File::open(spec.source.file);
    file = opened.get();
    info = &file->at(spec.source.tensor);
  }
  const std::vector<int64_t>& shape = vector ? vector->shape : info->shape;
  // A slot's value may be given for every expert; one of several heads as it lies in a trace.
  const std::vector<int64_t> one = {width}, by_expert = {n_experts, width};
  const std::vector<int64_t> other = slots ? by_expert : point_dims(spec.point, layer, plan_.shape, 0);
  if (shape != one && shape != other)
    key.fail("expected a tensor of shape " + safetensors::shape_text(one) +
             (other != one ? " or " + safetensors::shape_text(other) : "") + ", found " +
             safetensors::shape_text(shape));
  auto& values = tensors_[name];
  if (!values) values = &plan_.floats.emplace_back(vector ? vector->values : read_floats(*file, *info, key));
  edit.values = values->data();
  edit.width = width;
  edit.n_values = 1;
  if (shape == one || !slots) return;
  edit.n_values = n_experts;
  edit.rows = PointEdit::Rows::by_expert;
  std::vector<int32_t>& rows = plan_.ints.emplace_back(static_cast<size_t>(n_experts));
  for (int32_t e = 0; e < n_experts; ++e) rows[e] = e;
  edit.row_of = rows;
}

std::string ValueSource::require_point(const Recording& trace, const json::Ref& key, Point point, int32_t layer,
                                       const ModelShape& model) {
  const std::string name = point_name(point, layer);
  if (!trace.has(name)) key.fail("expected a trace that holds " + name + ", found none in " + trace.where());
  const std::vector<int64_t> shape = trace.tensor_shape(name);
  std::vector<int64_t> expected = point_dims(point, layer, model, 0);
  expected.insert(expected.begin(), shape.front());
  if (point_info(point).slots() && shape.size() == expected.size()) expected[1] = shape[1];
  if (shape != expected)
    key.fail("expected " + name + " with rows of " + std::to_string(point_width(point, layer, model, 0)) + " in " +
             trace.where() + ", found shape " + safetensors::shape_text(shape));
  return name;
}

void ValueSource::require_routes(const Recording& trace, const json::Ref& key, int32_t layer, const LayerShape& shape) {
  const std::string at = "layer " + std::to_string(layer);
  if (!trace.has("router.ids")) key.fail("expected a trace that holds router.ids, found none in " + trace.where());
  if (trace.n_experts() != shape.n_experts)
    key.fail("expected routes over " + std::to_string(shape.n_experts) + " experts, found " +
             std::to_string(trace.n_experts()) + " in " + trace.where());
  if (trace.n_active() != shape.n_active)
    key.fail("expected routes of " + std::to_string(shape.n_active) + " experts a token, found " +
             std::to_string(trace.n_active()) + " in " + trace.where());
  if (!trace.layer_index(layer)) key.fail("expected routes of " + at + ", found none in " + trace.where());
}

void ValueSource::mean(PointEdit& edit, const json::Ref& key, const EditSpec& spec, int32_t layer, int64_t width,
                       const std::vector<int32_t>& experts) {
  const std::shared_ptr<const Recording> source = recording(spec, key);
  const Point point = spec.point;
  const std::string name = require_point(*source, key, point, layer, plan_.shape);
  const bool slots = point_info(point).slots();
  const int32_t n_groups = slots ? plan_.shape.layers[layer].n_experts : 1;
  size_t index = 0;
  if (slots) {
    require_routes(*source, key, layer, plan_.shape.layers[layer]);
    index = static_cast<size_t>(*source->layer_index(layer));
  }
  const int64_t row_floats = source->tensor_width(name);
  const int64_t n_slots = row_floats / width;
  if (slots && n_slots != source->n_slots())
    key.fail("expected " + name + " with " + std::to_string(source->n_slots()) + " slots, as router.ids, found " +
             std::to_string(n_slots) + " in " + source->where());
  std::vector<double> sums(static_cast<size_t>(n_groups * width), 0.0);
  std::vector<int64_t> counts(static_cast<size_t>(n_groups), 0);
  const int64_t step = std::max<int64_t>(1, chunk_floats / row_floats);
  for (int64_t begin = 0; begin < source->n_tokens(); begin += step) {
    const Recording::Rows rows{begin, std::min(begin + step, source->n_tokens())};
    const std::vector<float> values = source->floats(name, rows);
    const std::vector<int32_t> ids = slots ? source->ids(rows) : std::vector<int32_t>();
    const size_t id_stride = source->layers().size() * static_cast<size_t>(n_slots);
    for (int64_t r = 0; r < rows.size(); ++r) {
      for (int64_t k = 0; k < n_slots; ++k) {
        const int32_t group = slots ? ids[r * id_stride + index * n_slots + k] : 0;
        if (group < 0) continue;
        ++counts[group];
        const float* x = values.data() + r * row_floats + k * width;
        double* sum = sums.data() + group * width;
        for (int64_t c = 0; c < width; ++c) sum[c] += x[c];
      }
    }
  }
  std::vector<float>& means = plan_.floats.emplace_back(sums.size(), 0.0f);
  for (int32_t g = 0; g < n_groups; ++g) {
    if (counts[g] == 0) continue;
    for (int64_t c = 0; c < width; ++c) {
      const float value = static_cast<float>(sums[g * width + c] / static_cast<double>(counts[g]));
      if (!std::isfinite(value)) key.fail("expected finite values, found others in " + source->where() + ": " + name);
      means[g * width + c] = value;
    }
  }
  edit.values = means.data();
  edit.width = width;
  edit.n_values = n_groups;
  if (!slots) {
    if (counts[0] == 0) key.fail("expected a trace of at least one token, found none in " + source->where());
    return;
  }
  for (int32_t e : experts)
    if (counts[e] == 0)
      key.fail("expected layer " + std::to_string(layer) + " expert " + std::to_string(e) +
               " to be used in the trace, found no such token in " + source->where());
  edit.rows = PointEdit::Rows::by_expert;
  std::vector<int32_t>& rows = plan_.ints.emplace_back(static_cast<size_t>(n_groups));
  for (int32_t e = 0; e < n_groups; ++e) rows[e] = counts[e] > 0 ? e : -1;
  edit.row_of = rows;
}

}  // namespace signalbox::probes
