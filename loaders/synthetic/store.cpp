#include "loaders/synthetic/store.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <set>

#include "base/half.h"
#include "base/mxfp4.h"
#include "base/safetensors.h"

namespace signalbox::loaders::synthetic {

namespace {

using families::Layout;
using families::Source;

constexpr int64_t piece_values = int64_t{1} << 20;  // converted at once

// What lies in one stored tensor: the slots by expert and part.
struct StoredTensor {
  safetensors::TensorHeader header;
  Layout layout = Layout::plain;
  bool interleaved = false, scales = false;
  int parts = 1;
  std::vector<TensorPlace> slots;  // [expert][part]
};

// The largest number rather than infinity.
uint16_t finite_f16(float value) { return f16_of_float(std::clamp(value, -65504.0f, 65504.0f)); }

const char* dtype_text(Storage storage) {
  return storage == Storage::f32 ? "F32" : storage == Storage::f16 ? "F16" : "BF16";
}

// The source that the spec's style stores a tensor under.
Source choose(const Spec& spec, const TensorId& id) {
  const std::vector<Source> all = families::sources(*spec.family, id);
  const Source* chosen = nullptr;
  for (const Source& source : all) {
    const bool blocks = source.row->layout == Layout::mxfp4;
    if (spec.storage == Storage::mxfp4 && blocks) return source;
    if (!blocks && (spec.fused || !chosen)) chosen = &source;
  }
  return *chosen;
}

class Store {
 public:
  Store(const Spec& spec, const Values& values) : spec_(spec), values_(values) {
    Weights shape;
    std::map<std::string, size_t> index;
    for_each_tensor(spec.model, shape, [&](const TensorPlace& slot) { add(index, slot); });
    if (spec.storage == Storage::mxfp4 &&
        std::none_of(tensors_.begin(), tensors_.end(), [](const StoredTensor& t) { return t.layout == Layout::mxfp4; }))
      throw Error("dtype", "expected f32, bf16 or f16 for this family, found \"mxfp4\"");
  }

  Stored write(const std::filesystem::path& directory, const std::function<void(uint64_t, uint64_t)>& progress) {
    uint64_t total = 0, written = 0;
    for (const StoredTensor& tensor : tensors_) total += tensor.header.bytes();
    json::Value map = json::Value::object();
    Stored stored;
    size_t next = 0;
    uint64_t end = 0;
    for (int shard = 0; shard < spec_.shards; ++shard) {
      // Each shard takes tensors up to its share of the bytes, and leaves at least one to each that follows.
      const size_t first = next;
      const uint64_t goal = total / static_cast<uint64_t>(spec_.shards) * static_cast<uint64_t>(shard + 1);
      const size_t left = static_cast<size_t>(spec_.shards - shard - 1);
      while (next < tensors_.size() &&
             (shard + 1 == spec_.shards || next == first || (end < goal && tensors_.size() - next > left)))
        end += tensors_[next++].header.bytes();
      if (first == next)
        throw Error("shards", "expected at most " + std::to_string(tensors_.size()) + " (the stored tensors), found " +
                                  std::to_string(spec_.shards));
      char name[64] = "model.safetensors";
      if (spec_.shards > 1) std::snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", shard + 1, spec_.shards);
      std::vector<safetensors::TensorHeader> headers;
      for (size_t i = first; i < next; ++i) {
        headers.push_back(tensors_[i].header);
        map.append_member(tensors_[i].header.name, json::Value(name));
      }
      safetensors::Writer writer(directory / name, headers, {{"format", "pt"}});
      for (size_t i = first; i < next; ++i) {
        emit(tensors_[i], writer);
        written += tensors_[i].header.bytes();
        if (progress) progress(written, total);
      }
      writer.finish();
      stored.bytes += std::filesystem::file_size(directory / name);
      ++stored.files;
    }
    if (spec_.shards > 1) {
      json::Value metadata = json::Value::object(), root = json::Value::object();
      metadata.set("total_size", json::Value(total));
      root.set("metadata", std::move(metadata)).set("weight_map", std::move(map));
      write_file_atomically(directory / "model.safetensors.index.json", json::dump(root, 2) + "\n");
    }
    return stored;
  }

 private:
  void add(std::map<std::string, size_t>& index, const TensorPlace& slot) {
    const Source source = choose(spec_, slot.id);
    const bool blocks = source.row->layout == Layout::mxfp4;
    if (blocks && slot.cols % 32 != 0)
      throw Error("dtype", "expected rows of a multiple of 32 values for mxfp4, found " + std::to_string(slot.cols));
    auto [place, added] = index.emplace(source.name + (blocks ? "_blocks" : ""), tensors_.size());
    if (added) {
      StoredTensor tensor;
      tensor.layout = source.row->layout;
      tensor.interleaved = source.row->interleaved;
      tensor.parts = source.row->parts;
      const int64_t n = slot.id.expert < 0 ? 1 : spec_.model.layers[slot.id.layer].moe()->router.n_experts;
      std::vector<int64_t> shape = families::stored_shape(source, slot, n);
      tensor.header = {place->first, blocks ? "U8" : dtype_text(spec_.storage), shape};
      tensors_.push_back(tensor);
      if (blocks) {
        shape.pop_back();
        tensor.header = {source.name + "_scales", "U8", shape};
        tensor.scales = true;
        tensors_.push_back(tensor);
      }
    }
    tensors_[place->second].slots.push_back(slot);
    if (blocks) tensors_[place->second + 1].slots.push_back(slot);
  }

  // Slots come by expert, and within one gate, up: the order of the parts.
  void emit(const StoredTensor& tensor, safetensors::Writer& writer) {
    const TensorPlace& like = tensor.slots.front();
    const bool vector = like.vector != nullptr;
    const int64_t rows = vector ? like.cols : like.rows, cols = vector ? 1 : like.cols, outer = rows * tensor.parts;
    for (size_t group = 0; group < tensor.slots.size(); group += static_cast<size_t>(tensor.parts)) {
      if (tensor.layout == Layout::transposed) {
        std::vector<float> whole(static_cast<size_t>(outer * cols)), turned(whole.size());
        fill(tensor, group, 0, outer, whole.data());
        for (int64_t r = 0; r < outer; ++r)
          for (int64_t c = 0; c < cols; ++c) turned[c * outer + r] = whole[r * cols + c];
        convert(turned.data(), outer * cols, writer);
        continue;
      }
      const int64_t step = std::max<int64_t>(1, vector ? outer : piece_values / cols);
      std::vector<float> piece(static_cast<size_t>(std::min(step, outer) * cols));
      for (int64_t r = 0; r < outer; r += step) {
        const int64_t n = std::min(step, outer - r);
        fill(tensor, group, r, n, piece.data());
        if (tensor.layout == Layout::mxfp4) {
          convert_mxfp4(tensor, piece.data(), n * cols, writer);
        } else {
          convert(piece.data(), n * cols, writer);
        }
      }
    }
  }

  // Rows first .. first + n of one expert's [outer, cols].
  void fill(const StoredTensor& tensor, size_t group, int64_t first, int64_t n, float* out) const {
    const TensorPlace& like = tensor.slots[group];
    if (like.vector) {  // whole vectors: they are small
      std::vector<float> part(static_cast<size_t>(like.cols));
      for (int p = 0; p < tensor.parts; ++p) {
        values_.rows(tensor.slots[group + p], 0, 1, part.data());
        for (int64_t i = 0; i < like.cols; ++i)
          out[tensor.interleaved ? i * tensor.parts + p : p * like.cols + i] = part[i];
      }
      return;
    }
    for (int64_t i = 0; i < n;) {
      const int64_t r = first + i;
      const int64_t part = tensor.interleaved ? r % tensor.parts : r / like.rows;
      const int64_t row = tensor.interleaved ? r / tensor.parts : r % like.rows;
      const int64_t run = tensor.interleaved ? 1 : std::min(n - i, like.rows - row);
      values_.rows(tensor.slots[group + part], row, run, out + i * like.cols);
      i += run;
    }
  }

  void convert(const float* values, int64_t n, safetensors::Writer& writer) {
    if (spec_.storage == Storage::f32) {
      writer.write(values, static_cast<size_t>(n) * 4);
      return;
    }
    halves_.resize(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i)
      halves_[i] = spec_.storage == Storage::f16 ? finite_f16(values[i]) : bf16_of_float(values[i]);
    writer.write(halves_.data(), static_cast<size_t>(n) * 2);
  }

  void convert_mxfp4(const StoredTensor& tensor, const float* values, int64_t n, safetensors::Writer& writer) {
    for (int64_t i = 0; i < n; i += 32) {
      uint8_t codes[16];
      const uint8_t scale = mxfp4_of_floats(values + i, codes);
      if (tensor.scales) {
        writer.write(&scale, 1);
      } else {
        writer.write(codes, sizeof codes);
      }
    }
  }

  const Spec& spec_;
  const Values& values_;
  std::vector<StoredTensor> tensors_;
  std::vector<uint16_t> halves_;
};

}  // namespace

Stored write_weights(const Spec& spec, const Values& values, const std::filesystem::path& directory,
                     const std::function<void(uint64_t, uint64_t)>& progress) {
  return Store(spec, values).write(directory, progress);
}

}  // namespace signalbox::loaders::synthetic
