#include "loaders/model/rewrite.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <map>
#include <optional>
#include <set>
#include <tuple>

#include "base/files.h"
#include "base/half.h"
#include "base/mxfp4.h"
#include "base/safetensors.h"
#include "engine/matrix_values.h"
#include "engine/weight_slopes.h"
#include "loaders/model/stored_tensor.h"

namespace signalbox::loaders {

namespace {

namespace fs = std::filesystem;
using families::Layout;
using families::NameRow;
using families::Source;

// Of an expert that is new: where a slot's rows lie in its part of the stored tensor.
struct EncodedSlot {
  TensorPlace slot;
  const NameRow* row = nullptr;
};

// Some bytes of a tensor: where they stand in the original, or what they are made of.
struct Chunk {
  const std::byte* data = nullptr;  // null: encoded
  uint64_t bytes = 0;
  std::vector<EncodedSlot> slots;
  bool alias = false;  // a copy of another expert's
};

bool router_role(Role role) {
  return role == Role::router || role == Role::router_bias || role == Role::selection_bias;
}

// Neurons of a layer's block or of one of its experts.
int64_t width_of(const Layer& layer) { return layer.moe() ? layer.moe()->d_ff : std::get<Dense>(layer.ffn).d_ff; }

// New values must be ones that the dtype can hold: above its range they have become infinite.
void expect_held(const EncodedSlot& encoded, DType dtype) {
  const auto refuse = [&] {
    throw Error("tensor " + weight_name(encoded.slot.id), "expected new values within the range of " +
                                                              std::string(dtype_name(dtype)) +
                                                              ", which the checkpoint stores, found one beyond it");
  };
  if (const Vector* vector = encoded.slot.vector) {
    for (int64_t i = 0; i < vector->n; ++i)
      if (!std::isfinite(kept_by(dtype, vector->data[i]))) refuse();
    return;
  }
  const Matrix& matrix = *encoded.slot.matrix;
  if (matrix.dtype == DType::mxfp4) return;  // it has no infinity
  std::vector<float> row(static_cast<size_t>(matrix.cols));
  for (int64_t r = 0; r < matrix.rows; ++r) {
    read_row(matrix, r, row.data());
    for (const float value : row)
      if (!std::isfinite(value)) refuse();
  }
}

void encode_slot(const EncodedSlot& encoded, DType dtype, bool scales, std::byte* out) {
  const NameRow& row = *encoded.row;
  const auto outer_row = [&](int64_t r, int64_t rows) {
    return row.interleaved ? r * row.parts + row.part : row.part * rows + r;
  };
  if (const Vector* vector = encoded.slot.vector) {
    for (int64_t i = 0; i < vector->n; ++i)
      put_float(out + outer_row(i, vector->n) * static_cast<int64_t>(dtype_size(dtype)), dtype, vector->data[i]);
    return;
  }
  const Matrix& matrix = *encoded.slot.matrix;
  const auto* data = static_cast<const std::byte*>(matrix.data);
  const int64_t cols = matrix.cols, outer = matrix.rows * row.parts;
  for (int64_t r = 0; r < matrix.rows; ++r) {
    const int64_t o = outer_row(r, matrix.rows);
    if (row.layout == Layout::mxfp4) {
      const int64_t blocks = cols / mxfp4_block;
      if (scales) {
        std::memcpy(out + o * blocks, matrix.scales + r * matrix.scale_stride, static_cast<size_t>(blocks));
      } else {
        std::memcpy(out + o * cols / 2, data + r * matrix.row_stride / 2, static_cast<size_t>(cols / 2));
      }
      continue;
    }
    const auto size = static_cast<int64_t>(dtype_size(matrix.dtype));
    const std::byte* from = data + r * matrix.row_stride * size;
    if (row.layout == Layout::transposed) {
      for (int64_t c = 0; c < cols; ++c)
        std::memcpy(out + (c * outer + o) * size, from + c * size, static_cast<size_t>(size));
    } else {
      std::memcpy(out + o * cols * size, from, static_cast<size_t>(cols * size));
    }
  }
}

}  // namespace

// Where a tensor of the original lies.
struct Rewrite::Place : StoredTensor {};

struct Rewrite::OutTensor {
  safetensors::TensorHeader header;
  size_t file = 0;     // of the original
  uint64_t begin = 0;  // in it
  DType dtype = DType::other;
  bool scales = false;
  std::vector<Chunk> chunks;
};

struct Rewrite::OutFile {
  std::string name;
  std::map<std::string, std::string> metadata;
  std::vector<OutTensor> tensors;
  std::vector<safetensors::TensorHeader> headers() const {
    std::vector<safetensors::TensorHeader> out;
    for (const OutTensor& tensor : tensors) out.push_back(tensor.header);
    return out;
  }
};

Rewrite::Rewrite(std::shared_ptr<const ModelFiles> files, const std::string& model_type, const Model& model,
                 std::vector<TensorId> adapted)
    : files_(std::move(files)),
      family_(families::find_family(model_type)),
      original_(model),
      adapted_(std::move(adapted)),
      checkpoint_(Checkpoint::open(*files_)),
      config_(files_->read_json("config.json")) {
  if (const DType format = families::own_format(config_, files_->where("config.json")); format != DType::other)
    throw Error(files_->where("config.json"), "expected a checkpoint to change before it is quantised, found one of " +
                                                  std::string(dtype_name(format)) + " that signalbox quantize wrote");
}

Rewrite::Place Rewrite::find(const TensorId& id) const { return {stored_tensor(*family_, original_, checkpoint_, id)}; }

void Rewrite::store_adapted(Weights& weights) const {
  std::set<std::string> names;
  for (const TensorId& id : adapted_) names.insert(weight_name(id));
  for_each_tensor(original_, weights, [&](const TensorPlace& place) {
    if (!names.contains(weight_name(place.id))) return;
    const DType dtype = stored_dtype(place.id);
    if (dtype == DType::mxfp4)
      throw Error("tensor " + weight_name(place.id),
                  "expected F32, F16 or BF16 where an adapter is written into a checkpoint, found MXFP4");
    auto values = std::make_shared<std::vector<float>>(static_cast<size_t>(place.rows * place.cols));
    if (place.vector) {
      for (int64_t i = 0; i < place.cols; ++i)
        (*values)[static_cast<size_t>(i)] = kept_by(dtype, place.vector->data[i]);
      place.vector->data = values->data();
    } else {
      read_matrix(values->data(), *place.matrix);
      *place.matrix = rounded(values->data(), place.rows, place.cols, dtype, weights);
    }
    weights.owners.push_back(values);
    expect_held({place, nullptr}, dtype);
  });
  if (original_.tied_embeddings) weights.lm_head = weights.embed;
}

DType Rewrite::stored_dtype(const TensorId& id) const {
  const Place place = find(id);
  return place.source.row->layout == Layout::mxfp4 ? DType::mxfp4 : place.tensor.info->type;
}

Model Rewrite::with_one_block(int64_t width) const {
  for (const Layer& layer : original_.layers)
    if (const Dense* dense = std::get_if<Dense>(&layer.ffn)) width = std::max(width, dense->d_ff);
  const json::Value config = families::with_one_block(*family_, config_, original_.n_layers(), width);
  return families::read_config(config, "config.json with one block a layer").model;
}

DType Rewrite::block_dtype() const {
  const DType dtype = stored_dtype({Role::expert_down, original_.moe_layers().front(), 0});
  return dtype == DType::mxfp4 ? DType::bf16 : dtype;
}

// Is a tensor of a feed-forward block that the original does not have in this shape?
bool Rewrite::is_remade(const ChangedModel& changed, const TensorId& id) const {
  if (!changed.one_block || id.layer < 0) return false;
  const Layer& was = original_.layers[id.layer];
  if (!was.moe() && width_of(changed.model.layers[id.layer]) == width_of(was)) return false;
  switch (id.role) {
    case Role::dense_gate:
    case Role::dense_up:
    case Role::dense_down:
    case Role::router:
    case Role::router_bias:
    case Role::expert_gate:
    case Role::expert_up:
    case Role::expert_down:
    case Role::expert_gate_bias:
    case Role::expert_up_bias:
    case Role::expert_down_bias: return true;
    default: return false;
  }
}

// Under which name a tensor of a new block is stored, and the tensor of the original whose place it takes.
Source Rewrite::place_of_block(const TensorId& id, Place& like) const {
  TensorId was = id;
  if (original_.layers[id.layer].moe()) {
    if (id.role == Role::dense_gate) was = {Role::expert_gate, id.layer, 0};
    if (id.role == Role::dense_up) was = {Role::expert_up, id.layer, 0};
    if (id.role == Role::dense_down) was = {Role::expert_down, id.layer, 0};
  }
  like = find(was);
  std::vector<Source> candidates;
  for (const Source& source : families::sources(*family_, id))
    if (source.row->layout != Layout::mxfp4) candidates.push_back(source);
  for (const Source& source : candidates)
    if (source.row->layout == like.source.row->layout) return source;
  return candidates.front();
}

json::Value Rewrite::config_of(const ChangedModel& changed) const {
  const Model& now = changed.model;
  if (changed.one_block)
    return families::with_one_block(*family_, config_, now.n_layers(), width_of(now.layers.front()));
  const int64_t n_experts = now.n_experts();
  return n_experts == original_.n_experts() ? config_ : families::with_expert_count(config_, n_experts);
}

std::vector<Rewrite::OutTensor> Rewrite::tensors(const ChangedModel& changed, Weights& views) const {
  std::map<int32_t, const ExpertChange*> changes;
  for (const ExpertChange& change : changed.changes) changes[change.layer] = &change;
  std::vector<OutTensor> out;
  std::map<std::string, size_t> index;  // by name
  const auto open = [&](const std::string& name, const Checkpoint::Tensor& like, std::optional<int64_t> n,
                        bool scales) {
    const auto [place, added] = index.emplace(name, out.size());
    if (added) {
      OutTensor tensor;
      tensor.header = {name, like.info->dtype, like.info->shape};
      if (n) tensor.header.shape[0] = *n;
      for (size_t f = 0; f < checkpoint_.files().size(); ++f)
        if (checkpoint_.files()[f].get() == like.file) tensor.file = f;
      tensor.begin = like.info->begin;
      tensor.dtype = like.info->type;
      tensor.scales = scales;
      out.push_back(std::move(tensor));
    }
    return place->second;
  };

  // Of an expert all are encoded where one is new.
  using Key = std::tuple<Role, int32_t, int32_t>;
  const auto key_of = [](const TensorId& id) {
    return id.expert < 0 ? Key(id.role, id.layer, -1) : Key(Role::expert_gate, id.layer, id.expert);
  };
  std::set<Key> fresh;
  for (const auto* list : {&changed.replaced, &adapted_})
    for (const TensorId& id : *list) fresh.insert(key_of(id));
  const auto is_new = [&](const TensorId& id) { return fresh.contains(key_of(id)); };
  views = changed.weights;
  for_each_tensor(changed.model, views, [&](const TensorPlace& slot) {
    if (is_remade(changed, slot.id)) {
      Place like;
      const Source source = place_of_block(slot.id, like);
      OutTensor& tensor = out[open(source.name, like.tensor, std::nullopt, false)];
      if (tensor.chunks.empty()) {
        if (slot.matrix) {
          tensor.dtype = slot.matrix->dtype;
          tensor.header.dtype = dtype_name(tensor.dtype);
        }
        tensor.header.shape = families::stored_shape(source, slot, 1);
        tensor.chunks = {{nullptr, tensor.header.bytes(), {}, false}};
      }
      tensor.chunks.front().slots.push_back({slot, source.row});
      return;
    }
    if (slot.id.expert < 0 && is_new(slot.id)) {
      const Place place = find(slot.id);
      OutTensor& tensor = out[open(place.source.name, place.tensor, std::nullopt, false)];
      if (router_role(slot.id.role)) tensor.header.shape[0] = slot.vector ? slot.cols : slot.rows;
      tensor.chunks = {{nullptr, tensor.header.bytes(), {{slot, place.source.row}}, false}};
      return;
    }
    if (slot.id.expert < 0 && !router_role(slot.id.role)) {
      const Place place = find(slot.id);
      OutTensor& tensor = out[open(place.source.name, place.tensor, std::nullopt, false)];
      tensor.chunks = {{place.tensor.data(), place.tensor.info->bytes, {}, false}};
      return;
    }
    const ExpertChange& change = *changes.at(slot.id.layer);
    const auto n_now = static_cast<int64_t>(change.kept.size());
    const auto n_was = static_cast<uint64_t>(original_.layers[slot.id.layer].moe()->router.n_experts);
    if (router_role(slot.id.role)) {
      const Place place = find(slot.id);
      OutTensor& tensor = out[open(place.source.name, place.tensor, n_now, false)];
      const uint64_t bytes = place.tensor.info->bytes / n_was;
      for (const int32_t e : change.kept) tensor.chunks.push_back({place.tensor.data() + e * bytes, bytes, {}, false});
      return;
    }
    const int32_t e = slot.id.expert;
    TensorId was = slot.id;
    was.expert = change.kept[e];
    const Place place = find(was);
    const bool plain = place.source.row->layout == Layout::plain;
    std::string name = place.source.name;
    for (const Source& source : families::sources(*family_, slot.id))
      if (source.row == place.source.row) name = source.name;  // under its new number
    TensorId from = was;                                       // whose tensors it has
    from.expert = change.kept[change.same_as[e]];
    const bool encoded = change.replaced[change.same_as[e]] != 0 || is_new(from), alias = change.same_as[e] != e;
    const auto add = [&](const std::string& full, const Checkpoint::Tensor& stored, bool scales) {
      OutTensor& tensor = out[open(full, stored, plain ? std::nullopt : std::optional(n_now), scales)];
      const uint64_t bytes = plain ? stored.info->bytes : stored.info->bytes / n_was;
      // Gate and up may stand in one tensor: its second part adds to the chunk of the first.
      const size_t chunk = plain ? 0 : static_cast<size_t>(e);
      if (tensor.chunks.size() <= chunk)
        tensor.chunks.push_back(
            {encoded ? nullptr : stored.data() + (plain ? 0 : static_cast<uint64_t>(was.expert)) * bytes,
             bytes,
             {},
             alias});
      if (encoded) tensor.chunks[chunk].slots.push_back({slot, place.source.row});
    };
    if (place.source.row->layout == Layout::mxfp4) {
      add(name + "_blocks", place.tensor, false);
      add(name + "_scales", place.scales, true);
    } else {
      add(name, place.tensor, false);
    }
  });
  return out;
}

std::vector<Rewrite::OutFile> Rewrite::files(std::vector<OutTensor> tensors) const {
  std::sort(tensors.begin(), tensors.end(), [](const OutTensor& a, const OutTensor& b) {
    return std::tie(a.file, a.begin, a.header.name) < std::tie(b.file, b.begin, b.header.name);
  });
  std::vector<OutFile> out;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (i == 0 || tensors[i].file != tensors[i - 1].file) {
      OutFile& file = out.emplace_back();
      file.metadata = checkpoint_.files()[tensors[i].file]->metadata();
      file.metadata.emplace("format", "pt");  // transformers refuses files without
    }
    out.back().tensors.push_back(std::move(tensors[i]));
  }
  for (size_t f = 0; f < out.size(); ++f) {
    char name[64] = "model.safetensors";
    if (out.size() > 1) std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", f + 1, out.size());
    out[f].name = name;
  }
  return out;
}

Rewrite::Sizes Rewrite::original_sizes() const {
  Sizes sizes = this->sizes(keep_experts(original_, Weights(), {}));
  sizes.stored_bytes = 0;
  for (const auto& file : checkpoint_.files()) sizes.stored_bytes += static_cast<int64_t>(file->file_bytes());
  return sizes;
}

Rewrite::Sizes Rewrite::sizes(const ChangedModel& changed) const {
  Weights views;
  Sizes sizes;
  for (const OutFile& file : files(tensors(changed, views))) {
    sizes.stored_bytes += static_cast<int64_t>(safetensors::make_header(file.headers(), file.metadata).size());
    for (const OutTensor& tensor : file.tensors)
      for (const Chunk& chunk : tensor.chunks) {
        sizes.stored_bytes += static_cast<int64_t>(chunk.bytes);
        if (!chunk.alias) sizes.bytes += static_cast<int64_t>(chunk.bytes);
      }
  }
  return sizes;
}

void Rewrite::write(const ChangedModel& changed, const fs::path& directory,
                    const std::function<void(uint64_t, uint64_t)>& progress) const {
  std::error_code code;
  if (fs::exists(fs::symlink_status(directory, code)))
    throw Error(directory.string(), "expected a new directory, found that it exists");
  Weights views;
  const std::vector<OutFile> out = files(tensors(changed, views));
  uint64_t total = 0, written = 0;
  for (const OutFile& file : out)
    for (const OutTensor& tensor : file.tensors) total += tensor.header.bytes();

  fs::path plain = directory;
  if (plain.filename().empty()) plain = plain.parent_path();  // "DIR/"
  const fs::path part = plain.string() + ".tmp-" + std::to_string(getpid());
  struct Remover {
    const fs::path& path;
    ~Remover() {
      std::error_code ignored;
      fs::remove_all(path, ignored);
    }
  } remover{part};
  fs::create_directories(part, code);
  if (!fs::is_directory(part))
    throw Error(part.string(), "cannot make the directory" + (code ? ": " + code.message() : std::string()));

  json::Value map = json::Value::object();
  std::vector<std::byte> buffer;
  for (const OutFile& file : out) {
    safetensors::Writer writer(part / file.name, file.headers(), file.metadata);
    for (const OutTensor& tensor : file.tensors) {
      map.append_member(tensor.header.name, json::Value(file.name));
      for (const Chunk& chunk : tensor.chunks) {
        if (chunk.data) {
          writer.write(chunk.data, chunk.bytes);
        } else {
          buffer.assign(chunk.bytes, std::byte{0});
          for (const EncodedSlot& slot : chunk.slots) {
            expect_held(slot, tensor.dtype);
            encode_slot(slot, tensor.dtype, tensor.scales, buffer.data());
          }
          writer.write(buffer.data(), buffer.size());
        }
        written += chunk.bytes;
        if (progress) progress(written, total);
      }
    }
    writer.finish();
  }
  if (out.size() > 1) {
    json::Value root = json::Value::object();
    root.set("metadata", json::Value::object().set("total_size", json::Value(total))).set("weight_map", std::move(map));
    write_file_atomically(part / "model.safetensors.index.json", json::dump(root, 2) + "\n");
  }
  copy_companions(*files_, part);
  write_file_atomically(part / "config.json", json::dump(config_of(changed), 2) + "\n");
  fs::rename(part, plain, code);
  if (code) throw Error(plain.string(), "cannot name the directory that was written: " + code.message());
  sync_directory(fs::absolute(plain).parent_path());
}

}  // namespace signalbox::loaders
