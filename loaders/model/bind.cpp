#include "loaders/model/bind.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>
#include <thread>
#include <unordered_set>

#include "base/half.h"
#include "base/int_blocks.h"
#include "base/mxfp4.h"
#include "loaders/model/quantized.h"
#include "loaders/model/stored_tensor.h"

namespace signalbox::loaders {

namespace {

using families::Layout;
using families::NameRow;
using families::Source;

constexpr size_t alignment = 64;

float load_float(const std::byte* data, DType dtype, int64_t index) {
  if (dtype == DType::f32) {
    float value;
    std::memcpy(&value, data + 4 * index, 4);
    return value;
  }
  uint16_t half;
  std::memcpy(&half, data + 2 * index, 2);
  return dtype == DType::f16 ? float_of_f16(half) : float_of_bf16(half);
}

// Where the rows of a slot start in its stored tensor, and how far apart they are, counted in rows of the stored
// tensor.
struct RowRange {
  int64_t first = 0, step = 1, outer = 0;
};

RowRange row_range(const NameRow& row, int64_t rows, int64_t expert) {
  RowRange range;
  range.outer = rows * row.parts;
  range.first = row.layout == Layout::plain ? 0 : expert * range.outer;
  range.first += row.interleaved ? row.part : row.part * rows;
  range.step = row.interleaved ? row.parts : 1;
  return range;
}

// Values that must be copied because the engine cannot read them where they lie.
struct Copy {
  const std::byte* data = nullptr;
  DType dtype = DType::f32;
  Layout layout = Layout::plain;
  RowRange range;
  int64_t rows = 0, cols = 0, expert = 0;
  Matrix* matrix = nullptr;
  Vector* vector = nullptr;
  size_t offset = 0;  // in the memory of all copies

  size_t bytes() const { return static_cast<size_t>(rows * cols) * (vector ? 4 : dtype_size(dtype)); }
};

// out[r, c] = the stored [.., cols, outer] at [expert, c, position of r], in tiles that fit the cache.
template <typename T>
void transpose(T* out, const Copy& copy) {
  constexpr int64_t tile = 64;
  const int64_t outer = copy.range.outer, first = copy.range.first - copy.expert * outer;
  const std::byte* base = copy.data + copy.expert * outer * copy.cols * static_cast<int64_t>(sizeof(T));
  for (int64_t r0 = 0; r0 < copy.rows; r0 += tile)
    for (int64_t c0 = 0; c0 < copy.cols; c0 += tile)
      for (int64_t r = r0; r < std::min(r0 + tile, copy.rows); ++r)
        for (int64_t c = c0; c < std::min(c0 + tile, copy.cols); ++c) {
          const int64_t from = c * outer + first + r * copy.range.step;
          std::memcpy(out + r * copy.cols + c, base + from * static_cast<int64_t>(sizeof(T)), sizeof(T));
        }
}

void run(const Copy& copy, std::byte* memory) {
  std::byte* out = memory + copy.offset;
  if (copy.vector) {
    auto* values = reinterpret_cast<float*>(out);
    for (int64_t i = 0; i < copy.cols; ++i)
      values[i] = load_float(copy.data, copy.dtype, copy.range.first + i * copy.range.step);
    *copy.vector = {values, copy.cols};
    return;
  }
  const size_t size = dtype_size(copy.dtype), row_bytes = static_cast<size_t>(copy.cols) * size;
  if (copy.layout == Layout::transposed) {
    if (size == 4) {
      transpose(reinterpret_cast<uint32_t*>(out), copy);
    } else {
      transpose(reinterpret_cast<uint16_t*>(out), copy);
    }
  } else {
    for (int64_t r = 0; r < copy.rows; ++r)
      std::memcpy(out + r * row_bytes, copy.data + (copy.range.first + r * copy.range.step) * row_bytes, row_bytes);
  }
  copy.matrix->data = out;
  copy.matrix->row_stride = copy.cols;
}

std::shared_ptr<std::byte> allocate(size_t bytes, const std::string& where) {
  try {
    return {static_cast<std::byte*>(::operator new(bytes, std::align_val_t(alignment))),
            [](std::byte* memory) { ::operator delete(memory, std::align_val_t(alignment)); }};
  } catch (const std::bad_alloc&) {
    throw Error(where, "expected " + std::to_string(bytes) + " bytes of memory for converted weights, found less");
  }
}

class Binder {
 public:
  Binder(Model& model, const families::Family& family, DType format, const Checkpoint& checkpoint)
      : model_(model), family_(family), format_(format), checkpoint_(checkpoint) {}

  Weights run(std::vector<std::string>& unknown) {
    resolve_tied();
    Weights weights;
    for_each_tensor(model_, weights, [&](const TensorPlace& slot) { bind(slot); });
    copy_all(weights);
    if (model_.tied_embeddings) weights.lm_head = weights.embed;
    for (const auto& file : checkpoint_.files()) {
      weights.owners.push_back(file);
      for (const safetensors::TensorInfo& info : file->tensors())
        if (!used_.count(&info)) unknown.push_back(info.name);
    }
    return weights;
  }

 private:
  // With tied embeddings one matrix is enough, under either name. Two that differ mean that they are not tied.
  void resolve_tied() {
    if (!model_.tied_embeddings) return;
    // A quantised checkpoint has both only where they were two.
    if (format_ != DType::other && codes_of({Role::embed}) && codes_of({Role::lm_head})) {
      model_.tied_embeddings = false;
      return;
    }
    const Checkpoint::Tensor embed = checkpoint_.find(families::sources(family_, {Role::embed}).front().name);
    const Checkpoint::Tensor head = checkpoint_.find(families::sources(family_, {Role::lm_head}).front().name);
    if (!embed || !head) return;
    if (embed.info->dtype == head.info->dtype && embed.info->shape == head.info->shape &&
        std::memcmp(embed.data(), head.data(), embed.info->bytes) == 0) {
      used_.insert(head.info);
    } else {
      model_.tied_embeddings = false;
    }
  }

  // The codes of a quantised matrix; empty if the checkpoint does not have it in that form.
  Checkpoint::Tensor codes_of(const TensorId& id) const {
    if (format_ == DType::other || !is_quantized(id.role)) return {};
    return checkpoint_.find(quantized_name(family_, id) + ".codes");
  }

  void bind(const TensorPlace& slot) {
    if (const Checkpoint::Tensor codes = codes_of(slot.id)) {
      bind_quantized(slot, quantized_name(family_, slot.id), codes);
      return;
    }
    const std::vector<Source> candidates = places_of(family_, model_, slot.id);
    if (const StoredTensor stored = find_stored(candidates, checkpoint_)) {
      if (stored.source.row->layout == Layout::mxfp4) {
        bind_mxfp4(slot, stored);
      } else {
        bind_plain(slot, stored.source, stored.tensor);
      }
      return;
    }
    std::string names;
    std::vector<std::string> listed;
    for (const Source& source : candidates) {
      const std::string name = source.row->layout == Layout::mxfp4 ? source.name + "_blocks" : source.name;
      if (std::find(listed.begin(), listed.end(), name) != listed.end()) continue;
      listed.push_back(name);
      names += (names.empty() ? "\"" : " or \"") + name + "\"";
    }
    if (format_ != DType::other && is_quantized(slot.id.role))
      names += " or \"" + quantized_name(family_, slot.id) + ".codes\"";
    throw Error(checkpoint_.index(), "expected the tensor " + names + ", found none of that name");
  }

  int64_t n_experts(const TensorPlace& slot) const {
    return slot.id.expert < 0 ? 1 : model_.layers[slot.id.layer].moe()->router.n_experts;
  }

  static void expect(const Checkpoint::Tensor& tensor, std::string_view dtype, const std::vector<int64_t>& shape) {
    if (!dtype.empty() && tensor.info->dtype != dtype)
      throw Error(tensor.where(), "expected " + std::string(dtype) + ", found " + tensor.info->dtype);
    if (tensor.info->shape != shape)
      throw Error(tensor.where(), "expected the shape " + safetensors::shape_text(shape) + ", found " +
                                      safetensors::shape_text(tensor.info->shape));
  }

  void bind_plain(const TensorPlace& slot, const Source& source, const Checkpoint::Tensor& tensor) {
    const DType dtype = tensor.info->type;
    if (dtype != DType::f32 && dtype != DType::f16 && dtype != DType::bf16)
      throw Error(tensor.where(), "expected F32, F16 or BF16, found " + tensor.info->dtype);
    expect(tensor, "", families::stored_shape(source, slot, n_experts(slot)));
    used_.insert(tensor.info);
    Copy copy;
    copy.data = tensor.data();
    copy.dtype = dtype;
    copy.layout = source.row->layout;
    copy.rows = slot.rows;
    copy.cols = slot.cols;
    copy.expert = slot.id.expert;
    if (slot.vector) {
      copy.vector = slot.vector;
      copy.range = row_range(*source.row, slot.cols, slot.id.expert);
      add(copy);
      return;
    }
    copy.range = row_range(*source.row, slot.rows, slot.id.expert);
    *slot.matrix = Matrix{nullptr, dtype, slot.rows, slot.cols, slot.cols * copy.range.step, nullptr, 0};
    if (copy.layout == Layout::transposed || !tensor.file->aligned(*tensor.info)) {
      copy.matrix = slot.matrix;
      add(copy);
    } else {
      slot.matrix->data = copy.data + copy.range.first * slot.cols * static_cast<int64_t>(dtype_size(dtype));
    }
  }

  void bind_quantized(const TensorPlace& slot, const std::string& name, const Checkpoint::Tensor& codes) {
    if (slot.cols % weight_block != 0)
      throw Error(codes.where(), "expected rows of a multiple of 32 values, found " + std::to_string(slot.cols));
    expect(codes, format_ == DType::int8 ? "I8" : "U8",
           {slot.rows, format_ == DType::int8 ? slot.cols : slot.cols / 2});
    const Checkpoint::Tensor scales = checkpoint_.find(name + ".scales");
    if (!scales)
      throw Error(checkpoint_.index(),
                  "expected the tensor \"" + name + ".scales\" beside the codes, found none of that name");
    const int64_t row_scales = slot.cols / weight_block;
    expect(scales, format_ == DType::int4 ? "BF16" : "U8", {slot.rows, row_scales});
    used_.insert(codes.info);
    used_.insert(scales.info);
    if (format_ == DType::int4) {
      for (int64_t i = 0; i < slot.rows * row_scales; ++i) {
        uint16_t scale;
        std::memcpy(&scale, scales.data() + 2 * i, 2);
        if (!is_int4_scale(scale))
          throw Error(scales.where(), "expected finite scales of at most five significant bits, found " +
                                          std::to_string(float_of_bf16(scale)) + " at " + std::to_string(i));
      }
    } else {
      expect_numbers(scales);
    }
    const auto* bytes = reinterpret_cast<const uint8_t*>(scales.data());
    *slot.matrix = Matrix{codes.data(), format_, slot.rows, slot.cols, slot.cols, bytes, row_scales};
  }

  // Of scale bytes, which are exponents.
  static void expect_numbers(const Checkpoint::Tensor& scales) {
    if (const void* nan = std::memchr(scales.data(), 255, scales.info->bytes))
      throw Error(scales.where(), "expected scales below 255, found 255 (not a number) at byte " +
                                      std::to_string(static_cast<const std::byte*>(nan) - scales.data()));
  }

  void bind_mxfp4(const TensorPlace& slot, const StoredTensor& stored) {
    const auto& [source, blocks, scales] = stored;
    if (slot.cols % mxfp4_block != 0)
      throw Error(blocks.where(), "expected rows of a multiple of 32 values, found " + std::to_string(slot.cols));
    std::vector<int64_t> shape = families::stored_shape(source, slot, n_experts(slot));
    expect(blocks, "U8", shape);
    if (!scales)
      throw Error(checkpoint_.index(),
                  "expected the tensor \"" + source.name + "_scales\" beside the blocks, found none of that name");
    shape.pop_back();
    expect(scales, "U8", shape);
    used_.insert(blocks.info);
    if (used_.insert(scales.info).second) expect_numbers(scales);
    const RowRange range = row_range(*source.row, slot.rows, slot.id.expert);
    const int64_t row_blocks = slot.cols / mxfp4_block;
    *slot.matrix = Matrix{blocks.data() + range.first * slot.cols / 2,
                          DType::mxfp4,
                          slot.rows,
                          slot.cols,
                          slot.cols * range.step,
                          reinterpret_cast<const uint8_t*>(scales.data()) + range.first * row_blocks,
                          row_blocks * range.step};
  }

  void add(Copy copy) {
    copy.offset = copy_bytes_;
    copy_bytes_ += (copy.bytes() + alignment - 1) / alignment * alignment;
    copies_.push_back(copy);
  }

  // Transposing a whole model's experts takes long on one thread; each copy writes memory of its own.
  void copy_all(Weights& weights) {
    if (copies_.empty()) return;
    std::shared_ptr<std::byte> memory = allocate(copy_bytes_, checkpoint_.index());
    std::atomic<size_t> next{0};
    const auto work = [&] {
      for (size_t i = next++; i < copies_.size(); i = next++) loaders::run(copies_[i], memory.get());
    };
    std::vector<std::thread> threads;
    if (copy_bytes_ > (size_t{64} << 20))
      for (unsigned i = 1; i < std::min(16u, std::thread::hardware_concurrency()); ++i) threads.emplace_back(work);
    work();
    for (std::thread& thread : threads) thread.join();
    weights.owners.push_back(memory);
  }

  Model& model_;
  const families::Family& family_;
  DType format_;
  const Checkpoint& checkpoint_;
  std::unordered_set<const safetensors::TensorInfo*> used_;
  std::vector<Copy> copies_;
  size_t copy_bytes_ = 0;
};

}  // namespace

Weights bind_weights(Model& model, const families::Family& family, DType format, const Checkpoint& checkpoint,
                     std::vector<std::string>& unknown) {
  return Binder(model, family, format, checkpoint).run(unknown);
}

}  // namespace signalbox::loaders
