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

void check_finite(std::span<const float> values, DType dtype, const std::string& where) {
  for (const float value : values) {
    if (!std::isfinite(kept_by(dtype, value)))
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
  std::vector<std::byte> bytes;
  const size_t size = dtype_size(dtype);
  for (size_t i = 0; i < places.size(); ++i) {
    buffer.assign(static_cast<size_t>(places[i].rows * places[i].cols), 0);
    values(places[i], buffer);
    check_finite(buffer, dtype, file + ": tensor \"" + headers[i].name + "\"");
    bytes.resize(buffer.size() * size);
    for (size_t k = 0; k < buffer.size(); ++k) put_float(bytes.data() + k * size, dtype, buffer[k]);
    writer.write(bytes.data(), bytes.size());
    written += bytes.size();
    if (progress) progress(written, total);
  }
  writer.finish();
  write_file_atomically(where, json::dump(config, 2) + "\n");
}

}  // namespace signalbox::loaders
