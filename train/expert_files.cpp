#include "train/expert_files.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <span>

#include "base/error.h"
#include "base/files.h"
#include "base/json.h"
#include "base/safetensors.h"
#include "base/text.h"
#include "engine/matrix_values.h"

namespace signalbox::train {

namespace fs = std::filesystem;

namespace {

bool of_shared_expert(Role role) {
  return role == Role::shared_gate || role == Role::shared_up || role == Role::shared_down ||
         role == Role::shared_scale;
}

// The name of a tensor of its own in hub checkpoints, or empty.
std::string hub_name(const loaders::families::Family& family, const TensorId& id) {
  const loaders::families::Source source = loaders::families::sources(family, id).front();
  return source.row->layout == loaders::families::Layout::plain && source.row->parts == 1 ? source.name : "";
}

std::string_view name_in_file(DType dtype) {
  switch (dtype) {
    case DType::f32: return "F32";
    case DType::f16: return "F16";
    case DType::bf16: return "BF16";
    default: throw Error("experts", "expected weights in F32, F16 or BF16, found quantised ones");
  }
}

// The bytes of f32 values in a dtype.
std::vector<std::byte> in_dtype(const float* values, int64_t rows, int64_t cols, DType dtype) {
  Weights owner;
  const Matrix matrix = rounded(values, rows, cols, dtype, owner);
  std::vector<std::byte> bytes(static_cast<size_t>(rows * cols) * static_cast<size_t>(dtype_size(dtype)));
  std::memcpy(bytes.data(), matrix.data, bytes.size());
  return bytes;
}

}  // namespace

bool ExpertConfig::has(const TensorId& id) const {
  if (id.expert >= 0) {
    const auto found = experts.find(id.layer);
    return found != experts.end() && std::binary_search(found->second.begin(), found->second.end(), id.expert);
  }
  return of_shared_expert(id.role) ? shared_experts : non_expert_modules;
}

ExpertConfig read_expert_config(const fs::path& file, const Model& model) {
  const json::Value value = json::parse_file(file);
  const json::Ref root(value, file.string());
  root.expect_object();
  root.reject_unknown({"experts", "shared_experts", "non_expert_modules"});
  ExpertConfig config;
  for (const char* key : {"shared_experts", "non_expert_modules"})
    if (const auto found = root.find(key))
      (std::string_view(key) == "shared_experts" ? config.shared_experts : config.non_expert_modules) =
          found->boolean();
  const std::vector<int32_t> layers = model.moe_layers();
  const bool has_shared = std::any_of(layers.begin(), layers.end(), [&](int32_t layer) {
    return model.layers[static_cast<size_t>(layer)].moe()->d_ff_shared > 0;
  });
  if (config.shared_experts && !has_shared)
    root.at("shared_experts").fail("expected false, as this model has no shared experts, found true");
  const json::Ref experts = root.at("experts");
  experts.expect_object();
  for (const auto& [key, list] : experts.members()) {
    const auto layer =
        std::find_if(layers.begin(), layers.end(), [&, &name = key](int32_t l) { return std::to_string(l) == name; });
    if (layer == layers.end())
      experts.fail("expected layers with a router (" +
                   joined(layers, ", ", [](int32_t l) { return std::to_string(l); }) + "), found " + in_quotes(key));
    std::vector<int32_t>& ids = config.experts[*layer];
    const int32_t n = model.layers[static_cast<size_t>(*layer)].moe()->router.n_experts;
    for (const json::Ref& item : list.items()) ids.push_back(static_cast<int32_t>(item.integer(0, n - 1)));
    std::sort(ids.begin(), ids.end());
    if (std::adjacent_find(ids.begin(), ids.end()) != ids.end())
      list.fail("expected each expert once, found one twice");
  }
  const bool none =
      std::all_of(config.experts.begin(), config.experts.end(), [](const auto& one) { return one.second.empty(); });
  if (none && !config.shared_experts && !config.non_expert_modules)
    throw Error(file.string(), "expected experts or other parts to train, found none");
  return config;
}

std::string expert_config_json(const ExpertConfig& config) {
  json::Value experts = json::Value::object();
  for (const auto& [layer, ids] : config.experts) {
    json::Value list = json::Value::array();
    for (const int32_t id : ids) list.push_back(int64_t{id});
    experts.set(std::to_string(layer), std::move(list));
  }
  json::Value out = json::Value::object();
  out.set("experts", std::move(experts))
      .set("shared_experts", config.shared_experts)
      .set("non_expert_modules", config.non_expert_modules);
  return json::dump(out) + "\n";
}

std::vector<WantedWeight> wanted_of(const ExpertConfig& config, const Session& session) {
  std::vector<WantedWeight> wanted;
  for (const WantedWeight& of : eval::wanted_weights("*", session))
    if (config.has(of.id)) wanted.push_back(of);
  return wanted;
}

bool write_expert_directory(const fs::path& dir, const ExpertConfig& config, const loaders::families::Family& family,
                            const ChangedModel& changed, const std::function<DType(const TensorId&)>& stored_dtype) {
  Weights weights = changed.weights;
  std::vector<TensorPlace> places;
  for_each_tensor(changed.model, weights, [&](const TensorPlace& place) {
    if (config.has(place.id) && has_gradient(place.id.role)) places.push_back(place);
  });
  std::vector<safetensors::TensorHeader> headers;
  for (const TensorPlace& place : places) {
    const std::string name = hub_name(family, place.id);
    if (name.empty()) return false;
    std::vector<int64_t> shape = {place.cols};
    if (place.matrix) shape.insert(shape.begin(), place.rows);
    headers.push_back({name, std::string(name_in_file(stored_dtype(place.id))), std::move(shape)});
  }
  const fs::path staged = dir.string() + ".partial";
  fs::remove_all(staged);
  fs::create_directories(staged);
  write_file_atomically(staged / expert_config_file, expert_config_json(config));
  safetensors::Writer writer(staged / expert_weights_file, headers, {{"format", "pt"}});
  std::vector<float> values;
  for (const TensorPlace& place : places) {
    values.resize(static_cast<size_t>(place.rows * place.cols));
    if (place.vector) {
      std::copy_n(place.vector->data, place.cols, values.data());
    } else {
      read_matrix(values.data(), *place.matrix);
    }
    const std::vector<std::byte> bytes = in_dtype(values.data(), place.rows, place.cols, stored_dtype(place.id));
    writer.write(bytes.data(), bytes.size());
  }
  writer.finish();
  fs::rename(staged, dir);
  return true;
}

std::vector<fs::path> expert_files(const fs::path& dir) {
  std::vector<fs::path> files;
  if (!fs::exists(dir / expert_config_file))
    throw Error((dir / expert_config_file).string(), "expected the names of experts, found no such file");
  for (const auto& entry : fs::directory_iterator(dir))
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  if (files.empty()) throw Error(dir.string(), "expected safetensors beside expert_cfg.json, found none");
  files.insert(files.begin(), dir / expert_config_file);
  return files;
}

ChangedModel apply_expert_directory(const fs::path& dir, const loaders::families::Family& family,
                                    const Session& session, const std::function<DType(const TensorId&)>& stored_dtype) {
  const std::vector<fs::path> files = expert_files(dir);
  const ExpertConfig config = read_expert_config(files.front(), session.model);
  ChangedModel changed = keep_experts(session.model, session.weights, {});
  std::map<std::string, TensorPlace> wanted;  // by name, those that are still to come
  for_each_tensor(changed.model, changed.weights, [&](const TensorPlace& place) {
    if (!config.has(place.id) || !has_gradient(place.id.role)) return;
    const std::string name = hub_name(family, place.id);
    if (name.empty())
      throw Error(dir.string(), "expected a family whose hub checkpoints have a tensor for each expert, found " +
                                    std::string(family.model_type));
    wanted[name] = place;
  });
  for (const fs::path& path : std::span(files).subspan(1)) {
    const auto file = safetensors::File::open(path);
    for (const safetensors::TensorInfo& info : file->tensors()) {
      const std::string where = path.string() + ": " + info.name;
      const auto found = wanted.find(info.name);
      if (found == wanted.end())
        throw Error(where, "expected tensors that expert_cfg.json names, each once, found another");
      const TensorPlace place = found->second;
      wanted.erase(found);
      std::vector<int64_t> shape = {place.cols};
      if (place.matrix) shape.insert(shape.begin(), place.rows);
      if (info.shape != shape || (info.type != DType::f32 && info.type != DType::f16 && info.type != DType::bf16))
        throw Error(where, "expected floats of shape " + safetensors::shape_text(shape) + ", found " + info.dtype +
                               " of " + safetensors::shape_text(info.shape));
      Matrix stored;
      stored.data = file->data(info);
      stored.dtype = info.type;
      stored.rows = place.rows;
      stored.cols = stored.row_stride = place.cols;
      auto values = std::make_shared<std::vector<float>>(static_cast<size_t>(place.rows * place.cols));
      read_matrix(values->data(), stored);
      for (const float value : *values)
        if (!std::isfinite(value)) throw Error(where, "expected finite values, found " + short_number(value));
      if (place.vector) {
        place.vector->data = values->data();
      } else {
        *place.matrix = rounded(values->data(), place.rows, place.cols, stored_dtype(place.id), changed.weights);
      }
      changed.weights.owners.push_back(std::move(values));
      if (place.id.expert < 0) {
        changed.replaced.push_back(place.id);
      } else {
        for (ExpertChange& change : changed.changes)
          if (change.layer == place.id.layer) change.replaced[static_cast<size_t>(place.id.expert)] = 1;
      }
    }
  }
  if (!wanted.empty())
    throw Error(dir.string(),
                "expected the tensor " + in_quotes(wanted.begin()->first) + " that expert_cfg.json names, found none");
  return changed;
}

}  // namespace signalbox::train
