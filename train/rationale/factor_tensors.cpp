#include "train/rationale/factor_tensors.h"

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/half.h"

namespace signalbox::train {

namespace {

template <class T>
T value_at(const std::byte* data, size_t i) {
  T value;
  std::memcpy(&value, data + i * sizeof(T), sizeof(T));
  return value;
}

}  // namespace

std::vector<double> read_doubles(const safetensors::File& file, const std::string& name,
                                 const std::vector<int64_t>& shape) {
  const safetensors::TensorInfo& info = file.at(name);
  bool fits = info.shape.size() == shape.size();
  for (size_t i = 0; fits && i < shape.size(); ++i) fits = shape[i] < 0 || shape[i] == info.shape[i];
  if (!fits)
    throw Error(file.name() + ": " + name, "expected the shape " + safetensors::shape_text(shape) + ", found " +
                                               safetensors::shape_text(info.shape));
  std::vector<double> values(static_cast<size_t>(info.elements()));
  const std::byte* data = file.data(info);
  for (size_t i = 0; i < values.size(); ++i) {
    switch (info.type) {
      case DType::f64: values[i] = value_at<double>(data, i); break;
      case DType::f32: values[i] = static_cast<double>(value_at<float>(data, i)); break;
      case DType::f16: values[i] = static_cast<double>(float_of_f16(value_at<uint16_t>(data, i))); break;
      case DType::bf16: values[i] = static_cast<double>(float_of_bf16(value_at<uint16_t>(data, i))); break;
      default: throw Error(file.name() + ": " + name, "expected F64, F32, F16 or BF16, found " + info.dtype);
    }
    if (!std::isfinite(values[i]))
      throw Error(file.name() + ": " + name,
                  "expected finite numbers, found one that is not, at index " + std::to_string(i));
  }
  return values;
}

std::vector<int64_t> read_integers(const safetensors::File& file, const std::string& name, int64_t n) {
  const safetensors::TensorInfo& info = file.at(name);
  if (info.shape.size() != 1 || (n >= 0 && info.shape[0] != n))
    throw Error(file.name() + ": " + name, "expected the shape " + safetensors::shape_text({{n}}) + ", found " +
                                               safetensors::shape_text(info.shape));
  std::vector<int64_t> values(static_cast<size_t>(info.elements()));
  const std::byte* data = file.data(info);
  for (size_t i = 0; i < values.size(); ++i) {
    switch (info.type) {
      case DType::i64: values[i] = value_at<int64_t>(data, i); break;
      case DType::i32: values[i] = value_at<int32_t>(data, i); break;
      case DType::u32: values[i] = value_at<uint32_t>(data, i); break;
      case DType::i16: values[i] = value_at<int16_t>(data, i); break;
      case DType::u16: values[i] = value_at<uint16_t>(data, i); break;
      case DType::i8: values[i] = value_at<int8_t>(data, i); break;
      case DType::u8: values[i] = value_at<uint8_t>(data, i); break;
      default: throw Error(file.name() + ": " + name, "expected whole numbers, found " + info.dtype);
    }
  }
  return values;
}

std::vector<int64_t> read_offsets(const safetensors::File& file, int64_t n_rows) {
  std::vector<int64_t> offsets = read_integers(file, "offsets", -1);
  const std::string where = file.name() + ": offsets";
  if (offsets.size() < 2 || offsets.front() != 0)
    throw Error(where, "expected at least two numbers, the first 0, found " + std::to_string(offsets.size()));
  for (size_t s = 1; s < offsets.size(); ++s)
    if (offsets[s] <= offsets[s - 1])
      throw Error(where,
                  "expected at least one row in every sentence, found none in sentence " + std::to_string(s - 1));
  if (offsets.back() != n_rows)
    throw Error(where, "expected the last to be the number of rows, " + std::to_string(n_rows) + ", found " +
                           std::to_string(offsets.back()));
  return offsets;
}

int64_t dimension(const safetensors::File& file, const std::string& name, size_t axis, size_t rank) {
  const safetensors::TensorInfo& info = file.at(name);
  if (info.shape.size() != rank || info.shape[axis] < 1)
    throw Error(file.name() + ": " + name, "expected " + std::to_string(rank) + " dimensions of at least 1, found " +
                                               safetensors::shape_text(info.shape));
  return info.shape[axis];
}

void write_tensors(const std::filesystem::path& file, const std::string& dtype, const std::vector<NamedTensor>& tensors,
                   const std::map<std::string, std::vector<int64_t>>& integers,
                   const std::map<std::string, std::string>& metadata) {
  std::vector<safetensors::TensorHeader> headers;
  for (const NamedTensor& tensor : tensors) headers.push_back({tensor.name, dtype, tensor.shape});
  for (const auto& [name, values] : integers) headers.push_back({name, "I64", {static_cast<int64_t>(values.size())}});
  safetensors::Writer writer(file, headers, metadata);
  for (const NamedTensor& tensor : tensors) {
    if (dtype == "F64") {
      writer.write(tensor.values->data(), tensor.values->size() * sizeof(double));
      continue;
    }
    const std::vector<float> floats(tensor.values->begin(), tensor.values->end());
    writer.write(floats.data(), floats.size() * sizeof(float));
  }
  for (const auto& [name, values] : integers) writer.write(values.data(), values.size() * sizeof(int64_t));
  writer.finish();
}

}  // namespace signalbox::train
