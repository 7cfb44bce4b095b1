#include "loaders/model/new_checkpoint.h"

#include <cmath>
#include <string>
#include <vector>

#include "base/files.h"
#include "base/half.h"
#include "base/safetensors.h"
#include "loaders/families/family.h"

namespace signalbox::loaders {

namespace {

// `values` as they are stored; `halves` is their place where two bytes are enough.
std::span<const std::byte> stored(std::span<const float> values, DType dtype, std::vector<uint16_t>& halves) {
  if (dtype == DType::f32) return std::as_bytes(values);
  halves.resize(values.size());
  for (size_t i = 0; i < values.size(); ++i)
    halves[i] = dtype == DType::f16 ? f16_of_float(values[i]) : bf16_of_float(values[i]);
  return std::as_bytes(std::span(halves));
}

void check_finite(std::span<const float> values, DType dtype, const std::string& where) {
  for (const float value : values) {
    const float kept = dtype == DType::f16    ? float_of_f16(f16_of_float(value))
                       : dtype == DType::bf16 ? float_of_bf16(bf16_of_float(value))
                                              : value;
    if (!std::isfinite(kept))
      throw Error(where, "expected values that " + std::string(dtype_name(dtype)) + " can hold, found " +
                             std::to_string(value));
  }
}

}  // namespace

void write_checkpoint(const std::filesystem::path& directory, const json::Value& config, DType dtype,
                      const TensorValues& values, const std::function<void(uint64_t, uint64_t)>& progress) {
  const std::string where = (directory / "config.json").string();
  const families::Reading reading = families::read_config(config, where);
  const std::string file = (directory / "model.safetensors").string();
  Weights shape;
  std::vector<TensorPlace> places;
  std::vector<safetensors::TensorHeader> headers;
  for_each_tensor(reading.model, shape, [&](const TensorPlace& place) {
    const families::Source source = families::sources(*reading.family, place.id).front();
    places.push_back(place);
    headers.push_back({source.name, std::string(dtype_name(dtype)), families::stored_shape(source, place, 0)});
  });
  uint64_t total = 0, written = 0;
  for (const auto& header : headers) total += header.bytes();
  safetensors::Writer writer(file, headers, {{"format", "pt"}});
  std::vector<float> buffer;
  std::vector<uint16_t> halves;
  for (size_t i = 0; i < places.size(); ++i) {
    buffer.assign(static_cast<size_t>(places[i].rows * places[i].cols), 0);
    values(places[i], buffer);
    check_finite(buffer, dtype, file + ": tensor \"" + headers[i].name + "\"");
    const auto bytes = stored(buffer, dtype, halves);
    writer.write(bytes.data(), bytes.size());
    written += bytes.size();
    if (progress) progress(written, total);
  }
  writer.finish();
  write_file_atomically(where, json::dump(config, 2) + "\n");
}

}  // namespace signalbox::loaders
