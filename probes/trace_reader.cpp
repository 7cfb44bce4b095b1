// Reading a trace: the whole schema is checked when it is opened.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <unordered_map>

#include "base/error.h"
#include "base/half.h"
#include "base/safetensors.h"
#include "probes/trace.h"
#include "probes/trace_schema.h"

namespace signalbox::probes {

using safetensors::shape_text;
using safetensors::TensorInfo;

struct TraceReader::State {
  std::shared_ptr<const safetensors::File> file;
  std::string name;
  int64_t n_tokens = 0;
  int32_t n_experts = 0, n_active = 0, n_slots = 0;
  std::vector<int32_t> layers;
  std::vector<int64_t> offsets;  // [S + 1]
  std::vector<std::string> ids, span_names;
  std::unordered_map<std::string_view, std::vector<int64_t>> by_id;

  [[noreturn]] void fail(const std::string& reason) const { throw Error(name, reason); }
  [[noreturn]] void fail_tensor(const TensorInfo& tensor, const std::string& expected) const {
    fail("tensor \"" + tensor.name + "\": expected " + expected + ", found " + tensor.dtype + " " +
         shape_text(tensor.shape));
  }
  const TensorInfo& need(std::string_view tensor, DType type, size_t rank) const {
    const TensorInfo* found = file->find(tensor);
    if (!found) fail("expected a tensor \"" + std::string(tensor) + "\", found none");
    if (found->type != type || found->shape.size() != rank)
      fail_tensor(*found, std::string(dtype_name(type)) + " of rank " + std::to_string(rank));
    return *found;
  }
  template <class T>
  std::vector<T> values(const TensorInfo& tensor, int64_t first, int64_t count) const {
    file->check_unchanged();
    std::vector<T> out(static_cast<size_t>(count));
    if (count > 0)
      std::memcpy(out.data(), file->data(tensor) + first * sizeof(T), static_cast<size_t>(count) * sizeof(T));
    return out;
  }
  std::string text(const char* key) const {
    auto found = file->metadata().find(key);
    if (found == file->metadata().end()) fail(std::string("metadata: expected the key \"") + key + "\", found none");
    return found->second;
  }
  int32_t number(const char* key) const {
    const std::string found = text(key);
    int32_t value = -1;
    auto [end, failed] = std::from_chars(found.data(), found.data() + found.size(), value);
    if (failed != std::errc() || end != found.data() + found.size() || value < 0)
      fail(std::string("metadata ") + key + ": expected a count, found \"" + found.substr(0, 40) + "\"");
    return value;
  }
  std::vector<std::string> list(const char* key) const {
    const json::Value parsed = json::parse(text(key), name + ": metadata " + key);
    std::vector<std::string> out;
    for (const json::Ref& item : json::Ref(parsed, name + ": metadata " + key).items()) out.push_back(item.string());
    return out;
  }
  void read_metadata();
  void check_rows();
  void check_tensors();
};

void TraceReader::State::read_metadata() {
  auto schema = file->metadata().find("schema");
  const std::string found = schema == file->metadata().end() ? "none" : "\"" + schema->second.substr(0, 60) + "\"";
  if (schema == file->metadata().end() || schema->second != trace_schema)
    fail("expected a trace of schema \"" + std::string(trace_schema) + "\", found " + found);
  n_experts = number("n_experts");
  n_active = number("n_active");
  if (n_experts > 65535 || n_active > n_experts)
    fail("metadata: expected at most 65535 experts and no more active ones, found n_experts " +
         std::to_string(n_experts) + ", n_active " + std::to_string(n_active));
  ids = list("samples");
  span_names = list("spans");
  if (static_cast<int64_t>(span_names.size()) > max_span_names)
    fail("metadata spans: expected at most 32 names, found " + std::to_string(span_names.size()));
  for (size_t i = 0; i < ids.size(); ++i) by_id[ids[i]].push_back(static_cast<int64_t>(i));
}

void TraceReader::State::check_rows() {
  n_tokens = need("tokens", DType::i32, 1).shape[0];
  const TensorInfo& starts = need("sample_offsets", DType::i64, 1);
  if (starts.shape[0] != static_cast<int64_t>(ids.size()) + 1)
    fail_tensor(starts, "I64 [" + std::to_string(ids.size() + 1) + "], one more than samples");
  offsets = values<int64_t>(starts, 0, starts.shape[0]);
  if (offsets.front() != 0 || offsets.back() != n_tokens || !std::is_sorted(offsets.begin(), offsets.end()))
    fail("tensor \"sample_offsets\": expected offsets that ascend from 0 to " + std::to_string(n_tokens) +
         ", found others");
  const TensorInfo& recorded = need("layers", DType::i32, 1);
  layers = values<int32_t>(recorded, 0, recorded.shape[0]);
  for (size_t i = 0; i < layers.size(); ++i)
    if (layers[i] < 0 || (i > 0 && layers[i] <= layers[i - 1]))
      fail("tensor \"layers\": expected indices that ascend, found " + std::to_string(layers[i]) + " at " +
           std::to_string(i));
  for (auto [tensor, type] : {std::pair("positions", DType::i32), {"phase", DType::u8}, {"spans", DType::u32}}) {
    const TensorInfo& info = need(tensor, type, 1);
    if (info.shape[0] != n_tokens) fail_tensor(info, "a row a token (" + std::to_string(n_tokens) + ")");
  }
  const std::byte* positions = file->data(file->at("positions"));
  const std::byte* phase = file->data(file->at("phase"));
  for (size_t s = 0; s < ids.size(); ++s) {
    int32_t last = -1;
    for (int64_t t = offsets[s]; t < offsets[s + 1]; ++t) {
      int32_t position;
      std::memcpy(&position, positions + t * 4, 4);
      if (position <= last)
        fail("tensor \"positions\": expected positions that ascend within a sample, found " + std::to_string(position) +
             " at row " + std::to_string(t));
      if (position >= max_positions)
        fail("tensor \"positions\": expected positions below " + std::to_string(max_positions) + ", found " +
             std::to_string(position) + " at row " + std::to_string(t));
      last = position;
      if (static_cast<uint8_t>(phase[t]) > 1)
        fail("tensor \"phase\": expected 0 or 1, found " + std::to_string(static_cast<uint8_t>(phase[t])) + " at row " +
             std::to_string(t));
    }
  }
}

void TraceReader::State::check_tensors() {
  const int64_t n_layers = static_cast<int64_t>(layers.size());
  int64_t longest = 0;
  for (size_t s = 0; s + 1 < offsets.size(); ++s) longest = std::max(longest, offsets[s + 1] - offsets[s]);
  const DType id_type = n_experts >= 256 ? DType::u16 : DType::u8;
  for (const char* tensor :
       {"router.ids", "router.weights", "expert.norm", "expert.update_share", "expert.direct", "grad.router.weights"})
    if (const TensorInfo* info = file->find(tensor); info && info->shape.size() == 3) {
      if (info->shape[2] < n_active || info->shape[2] > n_experts)
        fail_tensor(*info, "routes of " + std::to_string(n_active) + " to " + std::to_string(n_experts) + " slots");
      n_slots = static_cast<int32_t>(info->shape[2]);
    }
  for (const TensorInfo& info : file->tensors()) {
    if (info.name == "sample_offsets" || info.name == "layers" || info.name == "tokens" || info.name == "positions" ||
        info.name == "phase" || info.name == "spans")
      continue;
    auto require = [&](bool fits, const std::string& dtypes, const std::vector<int64_t>& shape) {
      if (!fits || info.shape != shape) fail_tensor(info, dtypes + " " + shape_text(shape));
    };
    const bool real = info.type == DType::f32 || info.type == DType::f16 || info.type == DType::bf16;
    const std::string_view name = info.name.rfind(slope_prefix, 0) == 0
                                      ? std::string_view(info.name).substr(std::strlen(slope_prefix))
                                      : std::string_view(info.name);
    if (name == metric_tensor)
      require(info.type == DType::f64, "F64", {static_cast<int64_t>(ids.size())});
    else if (info.name == "router.ids" || info.name == "router.original_ids")
      require(info.type == id_type, std::string(dtype_name(id_type)), {n_tokens, n_layers, n_slots});
    else if (name == "router.weights")
      require(real, "F32 or F16", {n_tokens, n_layers, n_slots});
    else if (info.name == "expert.norm" || info.name == "expert.update_share" || info.name == "expert.direct")
      require(real, "F32", {n_tokens, n_layers, n_slots});
    else if (info.name == "router.margin" || info.name == "router.group_margin")
      require(real, "F32", {n_tokens, n_layers});
    else if (name == "router.logits" || name == "router.scores")
      require(real, "F32", {n_tokens, n_layers, n_experts});
    else if (!real || info.shape.size() < 2 || info.shape[0] != n_tokens)
      fail_tensor(info, "F32 [" + std::to_string(n_tokens) + ", ...]");
    else if (const auto at = parse_point(info.name); at && point_info(at->point).positions())
      require(info.shape.size() == 3, "F32", {n_tokens, info.shape[1], longest});
  }
}

TraceReader::TraceReader(const std::filesystem::path& path) : state_(std::make_unique<State>()) {
  std::error_code failed;
  const std::filesystem::path file = std::filesystem::is_directory(path, failed) ? path / trace_file : path;
  state_->name = file.string();
  state_->file = safetensors::File::open(file);
  state_->read_metadata();
  state_->check_rows();
  state_->check_tensors();
}

TraceReader::~TraceReader() = default;

const std::string& TraceReader::file() const { return state_->name; }
int64_t TraceReader::n_tokens() const { return state_->n_tokens; }
int64_t TraceReader::n_samples() const { return static_cast<int64_t>(state_->ids.size()); }
int32_t TraceReader::n_experts() const { return state_->n_experts; }
int32_t TraceReader::n_active() const { return state_->n_active; }
int32_t TraceReader::n_slots() const { return state_->n_slots; }
bool TraceReader::edited() const { return has("router.original_ids"); }
const std::vector<int32_t>& TraceReader::layers() const { return state_->layers; }
const std::vector<std::string>& TraceReader::sample_ids() const { return state_->ids; }
const std::vector<std::string>& TraceReader::span_names() const { return state_->span_names; }

std::string TraceReader::metadata(std::string_view key) const {
  const auto found = state_->file->metadata().find(std::string(key));
  return found == state_->file->metadata().end() ? "" : found->second;
}

TraceReader::Rows TraceReader::rows(int64_t sample) const {
  if (sample < 0 || sample >= n_samples())
    state_->fail("expected a sample below " + std::to_string(n_samples()) + ", found " + std::to_string(sample));
  return {state_->offsets[static_cast<size_t>(sample)], state_->offsets[static_cast<size_t>(sample) + 1]};
}

std::optional<int64_t> TraceReader::find_sample(std::string_view id, int64_t nth) const {
  if (nth < 0 || nth >= count_samples(id)) return std::nullopt;
  return state_->by_id.at(id)[static_cast<size_t>(nth)];
}

int64_t TraceReader::count_samples(std::string_view id) const {
  const auto found = state_->by_id.find(id);
  return found == state_->by_id.end() ? 0 : static_cast<int64_t>(found->second.size());
}

std::vector<int32_t> TraceReader::tokens(Rows rows) const {
  return state_->values<int32_t>(state_->file->at("tokens"), rows.begin, rows.size());
}
std::vector<int32_t> TraceReader::positions(Rows rows) const {
  return state_->values<int32_t>(state_->file->at("positions"), rows.begin, rows.size());
}
std::vector<uint8_t> TraceReader::phase(Rows rows) const {
  return state_->values<uint8_t>(state_->file->at("phase"), rows.begin, rows.size());
}
std::vector<uint32_t> TraceReader::spans(Rows rows) const {
  return state_->values<uint32_t>(state_->file->at("spans"), rows.begin, rows.size());
}

bool TraceReader::has(std::string_view tensor) const { return state_->file->find(tensor) != nullptr; }

std::vector<std::string> TraceReader::tensor_names() const {
  std::vector<std::string> names;
  for (const TensorInfo& tensor : state_->file->tensors()) names.push_back(tensor.name);
  return names;
}

std::vector<int64_t> TraceReader::tensor_shape(std::string_view tensor) const { return state_->file->at(tensor).shape; }

std::vector<int32_t> TraceReader::read_ids(std::string_view tensor, Rows rows) const {
  std::vector<int32_t> ids;
  read_ids(tensor, rows, ids);
  return ids;
}

void TraceReader::read_ids(std::string_view tensor, Rows rows, std::vector<int32_t>& ids) const {
  const TensorInfo& info = state_->file->at(tensor);
  const int64_t width = tensor_width(tensor);
  ids.resize(static_cast<size_t>(rows.size() * width));
  auto convert = [&](auto unused) {
    const auto raw = state_->values<decltype(unused)>(info, rows.begin * width, rows.size() * width);
    std::transform(raw.begin(), raw.end(), ids.begin(), [](auto id) {
      return id == std::numeric_limits<decltype(id)>::max() ? -1 : static_cast<int32_t>(id);
    });
  };
  if (info.type == DType::u8)
    convert(uint8_t{});
  else
    convert(uint16_t{});
  const size_t n_slots = static_cast<size_t>(state_->n_slots);
  for (size_t first = 0; first < ids.size(); first += n_slots) {
    const auto fail = [&](const std::string& expected, int32_t found) {
      const int64_t route = static_cast<int64_t>(first / n_slots), n_layers = static_cast<int64_t>(layers().size());
      state_->fail("tensor \"" + std::string(tensor) + "\": row " + std::to_string(rows.begin + route / n_layers) +
                   ", layer " + std::to_string(layers()[static_cast<size_t>(route % n_layers)]) + ": expected " +
                   expected + ", found " + std::to_string(found));
    };
    uint64_t seen = 0;  // experts modulo 64: enough to pass over most routes
    for (size_t k = 0; k < n_slots; ++k) {
      const int32_t id = ids[first + k];
      if (id < 0) continue;
      if (id >= state_->n_experts) fail("experts below " + std::to_string(state_->n_experts), id);
      const uint64_t bit = uint64_t{1} << (id & 63);
      if (seen & bit &&
          std::find(ids.begin() + static_cast<int64_t>(first), ids.begin() + static_cast<int64_t>(first + k), id) !=
              ids.begin() + static_cast<int64_t>(first + k))
        fail("each expert once in a route", id);
      seen |= bit;
    }
  }
}

void TraceReader::release(Rows rows) const {
  static const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  for (const char* name : {"router.ids", "router.weights", "tokens", "positions", "phase", "spans"})
    if (const TensorInfo* info = state_->file->find(name); info && state_->n_tokens > 0) {
      // Whole pages, those of both ends too: they are the file's and come back as they were.
      const uint64_t row = info->bytes / static_cast<uint64_t>(state_->n_tokens);
      const uintptr_t data = reinterpret_cast<uintptr_t>(state_->file->data(*info));
      const uintptr_t begin = (data + static_cast<uint64_t>(rows.begin) * row) / page * page;
      madvise(reinterpret_cast<void*>(begin), data + static_cast<uint64_t>(rows.end) * row - begin, MADV_DONTNEED);
    }
}

std::vector<float> TraceReader::floats(std::string_view tensor, Rows rows) const {
  std::vector<float> out(static_cast<size_t>(rows.size() * tensor_width(tensor)));
  floats(tensor, rows, out.data());
  return out;
}

void TraceReader::floats(std::string_view tensor, Rows rows, float* out) const {
  const TensorInfo& info = state_->file->at(tensor);
  const int64_t width = tensor_width(tensor), n = rows.size() * width;
  if (n == 0) return;
  state_->file->check_unchanged();
  if (info.type == DType::f32) {
    std::memcpy(out, state_->file->data(info) + rows.begin * width * 4, static_cast<size_t>(n) * 4);
    return;
  }
  if (info.type != DType::f16 && info.type != DType::bf16) state_->fail_tensor(info, "a tensor of floats");
  const std::byte* data = state_->file->data(info) + rows.begin * width * 2;
  for (int64_t i = 0; i < n; ++i) {
    uint16_t bits;
    std::memcpy(&bits, data + 2 * i, 2);
    out[i] = info.type == DType::f16 ? float_of_f16(bits) : float_of_bf16(bits);
  }
}

const float* TraceReader::floats_in_place(std::string_view tensor, Rows rows) const {
  const TensorInfo& info = state_->file->at(tensor);
  if (info.type != DType::f32 || !state_->file->aligned(info)) return nullptr;
  state_->file->check_unchanged();
  return reinterpret_cast<const float*>(state_->file->data(info)) + rows.begin * tensor_width(tensor);
}

}  // namespace signalbox::probes
