#include "loaders/model/quantized.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <set>

#include "base/files.h"
#include "base/int_blocks.h"
#include "base/json.h"
#include "base/mxfp4.h"
#include "base/safetensors.h"
#include "base/thread_pool.h"
#include "engine/matrix_values.h"
#include "engine/roles.h"
#include "engine/weight_slopes.h"
#include "loaders/model/checkpoint.h"
#include "loaders/model/stored_tensor.h"

namespace signalbox::loaders {

namespace {

namespace fs = std::filesystem;
using families::Layout;
using families::Source;

constexpr uint64_t file_bytes = uint64_t{4} << 30;  // about: a file ends with the tensor that passes it

// A tensor to be written: as the original stores it, or the codes and behind them the scales of a matrix.
struct Item {
  safetensors::TensorHeader header;
  const std::byte* data = nullptr;
  const Matrix* matrix = nullptr;
  TensorId id;
};

struct Codes {
  std::vector<uint8_t> codes, scales;
};

Codes quantize(const Matrix& matrix, const TensorId& id, DType to, ThreadPool& pool) {
  const int64_t row_blocks = matrix.cols / weight_block, row_codes = element_bytes(to, matrix.cols);
  const int64_t block_codes = element_bytes(to, weight_block), row_scales = row_blocks * scale_bytes(to);
  Codes out;
  out.codes.resize(static_cast<size_t>(matrix.rows * row_codes));
  out.scales.resize(static_cast<size_t>(matrix.rows * row_scales));
  std::mutex mutex;
  int64_t wrong_row = matrix.rows;
  const int64_t rows = 16, n_tasks = (matrix.rows + rows - 1) / rows;
  pool.parallel_for(n_tasks, [&](int64_t task, int) {
    std::vector<float> values(static_cast<size_t>(matrix.cols));
    for (int64_t r = task * rows; r < std::min(matrix.rows, (task + 1) * rows); ++r) {
      read_row(matrix, r, values.data());
      bool finite = true;
      for (const float value : values) finite = finite && std::isfinite(value);
      if (!finite) {
        const std::lock_guard lock(mutex);
        wrong_row = std::min(wrong_row, r);
        return;
      }
      uint8_t* codes = out.codes.data() + r * row_codes;
      uint8_t* scales = out.scales.data() + r * row_scales;
      for (int64_t b = 0; b < row_blocks; ++b) {
        const float* from = values.data() + b * weight_block;
        uint8_t* block = codes + b * block_codes;
        if (to == DType::int8) {
          scales[b] = int8_of_floats(from, block);
        } else if (to == DType::int4) {
          const uint16_t scale = int4_of_floats(from, block);
          std::memcpy(scales + 2 * b, &scale, 2);
        } else {
          scales[b] = mxfp4_of_floats(from, block);
        }
      }
    }
  });
  if (wrong_row < matrix.rows)
    throw Error("tensor " + weight_name(id),
                "expected finite values to quantise, found others in row " + std::to_string(wrong_row));
  return out;
}

// What is written, in order: what stays as it is, then matrices.
class Plan {
 public:
  Plan(const families::Family& family, const Model& model, const Checkpoint& checkpoint, const QuantizeOptions& options)
      : family_(family), model_(model), checkpoint_(checkpoint), options_(options) {}

  // `weights` stays where it is: items point into it.
  std::vector<Item> items(Weights& weights, QuantizedCheckpoint& out) {
    std::vector<Item> matrices;
    for_each_tensor(model_, weights, [&](const TensorPlace& slot) {
      const bool head = slot.id.role == Role::embed || slot.id.role == Role::lm_head;
      if (!slot.matrix || !is_quantized(slot.id.role) || (head && options_.keep_head)) {
        keep(slot);
      } else if (slot.cols % weight_block != 0) {
        out.odd.push_back(weight_name(slot.id));
        keep(slot);
      } else {
        const std::string name = quantized_name(family_, slot.id);
        const bool bytes = options_.to == DType::int8;
        Item codes, scales;
        codes.header = {name + ".codes", bytes ? "I8" : "U8", {slot.rows, bytes ? slot.cols : slot.cols / 2}};
        codes.matrix = slot.matrix;
        codes.id = slot.id;
        scales.header = {
            name + ".scales", options_.to == DType::int4 ? "BF16" : "U8", {slot.rows, slot.cols / weight_block}};
        matrices.push_back(std::move(codes));
        matrices.push_back(std::move(scales));
        ++out.quantized;
      }
    });
    kept_.insert(kept_.end(), std::make_move_iterator(matrices.begin()), std::make_move_iterator(matrices.end()));
    return std::move(kept_);
  }

 private:
  void keep(const TensorPlace& slot) {
    const StoredTensor stored = stored_tensor(family_, model_, checkpoint_, slot.id);
    add(stored.tensor);
    if (stored.scales) add(stored.scales);
  }

  void add(const Checkpoint::Tensor& tensor) {
    if (!names_.insert(tensor.info->name).second) return;
    Item item;
    item.header = {tensor.info->name, tensor.info->dtype, tensor.info->shape};
    item.data = tensor.data();
    kept_.push_back(std::move(item));
  }

  const families::Family& family_;
  const Model& model_;
  const Checkpoint& checkpoint_;
  const QuantizeOptions& options_;
  std::set<std::string> names_;
  std::vector<Item> kept_;
};

// Ends of files: codes and scales of a matrix stay together.
std::vector<size_t> file_ends(const std::vector<Item>& items) {
  std::vector<size_t> ends;
  uint64_t bytes = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    bytes += items[i].header.bytes();
    if (bytes < file_bytes || items[i].matrix || i + 1 == items.size()) continue;
    ends.push_back(i + 1);
    bytes = 0;
  }
  ends.push_back(items.size());
  return ends;
}

}  // namespace

bool is_quantized(Role role) {
  if (is_attention_matrix(role)) return true;
  switch (role) {
    case Role::embed:
    case Role::lm_head:
    case Role::dense_gate:
    case Role::dense_up:
    case Role::dense_down:
    case Role::expert_gate:
    case Role::expert_up:
    case Role::expert_down:
    case Role::shared_gate:
    case Role::shared_up:
    case Role::shared_down: return true;
    default: return false;
  }
}

std::string quantized_name(const families::Family& family, const TensorId& id) {
  const Source source = families::sources(family, id).front();
  std::string name = source.name;
  if (source.row->layout != Layout::plain) name += "." + std::to_string(id.expert);
  if (source.row->parts > 1) name += "." + std::to_string(source.row->part);
  return name;
}

QuantizedCheckpoint write_quantized(const ModelFiles& files, const std::string& model_type, const Model& model,
                                    const Weights& weights, const QuantizeOptions& options, const fs::path& directory,
                                    const std::function<void(uint64_t, uint64_t)>& progress) {
  const json::Value config = files.read_json("config.json");
  if (const DType format = families::own_format(config, files.where("config.json")); format != DType::other)
    throw Error(files.where("config.json"), "expected a checkpoint that is not quantised yet, found one of " +
                                                std::string(dtype_name(format)) + " that signalbox quantize wrote");
  const families::Family& family = *families::find_family(model_type);
  const Checkpoint checkpoint = Checkpoint::open(files);
  QuantizedCheckpoint out;
  Weights views = weights;
  const std::vector<Item> items = Plan(family, model, checkpoint, options).items(views, out);
  if (out.quantized == 0)
    throw Error(checkpoint.index(), "expected matrices whose rows are a multiple of 32 values, found none");

  uint64_t total = 0, done = 0;
  for (const Item& item : items)
    total += item.matrix ? static_cast<uint64_t>(stored_bytes(*item.matrix)) : item.data ? item.header.bytes() : 0;
  ThreadPool pool(options.threads);
  json::Value map = json::Value::object();
  const std::vector<size_t> ends = file_ends(items);
  Codes made;
  for (size_t f = 0, first = 0; f < ends.size(); first = ends[f++]) {
    char name[64] = "model.safetensors";
    if (ends.size() > 1) std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", f + 1, ends.size());
    std::vector<safetensors::TensorHeader> headers;
    for (size_t i = first; i < ends[f]; ++i) headers.push_back(items[i].header);
    const std::map<std::string, std::string> metadata = {{"format", "pt"}};
    out.stored_bytes += static_cast<int64_t>(safetensors::make_header(headers, metadata).size());
    safetensors::Writer writer(directory / name, headers, metadata);
    for (size_t i = first; i < ends[f]; ++i) {
      const Item& item = items[i];
      const uint64_t bytes = item.header.bytes();
      if (item.matrix) {
        made = quantize(*item.matrix, item.id, options.to, pool);
        writer.write(made.codes.data(), made.codes.size());
        done += static_cast<uint64_t>(stored_bytes(*item.matrix));
      } else if (item.data) {
        writer.write(item.data, bytes);
        done += bytes;
      } else {
        writer.write(made.scales.data(), made.scales.size());
      }
      out.bytes += static_cast<int64_t>(bytes);
      map.append_member(item.header.name, json::Value(name));
      if (progress) progress(done, total);
    }
    writer.finish();
  }
  out.stored_bytes += out.bytes;
  if (ends.size() > 1) {
    json::Value root = json::Value::object(), sizes = json::Value::object();
    sizes.set("total_size", json::Value(out.bytes));
    root.set("metadata", std::move(sizes)).set("weight_map", std::move(map));
    write_file_atomically(directory / "model.safetensors.index.json", json::dump(root, 2) + "\n");
  }
  copy_companions(files, directory);
  write_file_atomically(directory / "config.json", json::dump(families::with_own_format(config, options.to), 2) + "\n");
  return out;
}

}  // namespace signalbox::loaders
