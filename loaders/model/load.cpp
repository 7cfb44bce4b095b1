#include "loaders/model/load.h"

#include <algorithm>
#include <mutex>

#include "base/sha256.h"
#include "base/thread_pool.h"
#include "loaders/families/family.h"
#include "loaders/model/bind.h"
#include "loaders/model/checkpoint.h"

namespace signalbox::loaders {

namespace {

constexpr uint64_t max_config_bytes = uint64_t{64} << 20;
constexpr size_t max_hashing_threads = 4;

std::optional<int32_t> token_id(const json::Ref& root, std::string_view key) {
  auto found = root.find(key);
  if (!found || found->value().type() == json::Type::array) return std::nullopt;
  const int64_t id = found->integer(-1, INT32_MAX);  // -1: none
  return id < 0 ? std::nullopt : std::optional(static_cast<int32_t>(id));
}

void add_stop_tokens(const json::Ref& root, std::vector<int32_t>& stop_tokens) {
  auto found = root.find("eos_token_id");
  if (!found) return;
  if (found->value().type() != json::Type::array) {
    if (auto id = token_id(root, "eos_token_id")) stop_tokens.push_back(*id);
    return;
  }
  for (const json::Ref& item : found->items()) stop_tokens.push_back(static_cast<int32_t>(item.integer(0, INT32_MAX)));
}

// A string, or {"__type": "AddedToken", "content": ...}.
std::optional<std::string> token_text(const json::Ref& root, std::string_view key) {
  auto found = root.find(key);
  if (!found) return std::nullopt;
  if (found->value().type() == json::Type::object) return found->at("content").string();
  return found->string();
}

json::Value read_object(const ModelFiles& files, const std::string& name) {
  json::Value value = json::parse(files.read(name, max_config_bytes), files.where(name));
  json::Ref(value, files.where(name)).expect_object();
  return value;
}

LoadedConfig read_config_files(const ResolvedModel& resolved, const json::Value& config) {
  const ModelFiles& files = *resolved.files;
  LoadedConfig loaded;
  loaded.resolved = resolved;
  families::Reading reading = families::read_config(config, files.where("config.json"));
  loaded.model = std::move(reading.model);
  loaded.family = reading.family->model_type;
  loaded.format = reading.format;
  const json::Ref root(config, files.where("config.json"));
  loaded.bos_token = token_id(root, "bos_token_id");
  loaded.pad_token = token_id(root, "pad_token_id");
  add_stop_tokens(root, loaded.stop_tokens);
  if (files.has("generation_config.json")) {
    const json::Value generation = read_object(files, "generation_config.json");
    add_stop_tokens(json::Ref(generation, files.where("generation_config.json")), loaded.stop_tokens);
  }
  if (files.has("tokenizer_config.json")) {
    const json::Value tokenizer = read_object(files, "tokenizer_config.json");
    const json::Ref ref(tokenizer, files.where("tokenizer_config.json"));
    loaded.bos_text = token_text(ref, "bos_token");
    loaded.eos_text = token_text(ref, "eos_token");
  }
  std::sort(loaded.stop_tokens.begin(), loaded.stop_tokens.end());
  loaded.stop_tokens.erase(std::unique(loaded.stop_tokens.begin(), loaded.stop_tokens.end()), loaded.stop_tokens.end());
  return loaded;
}

std::string hash_model(const json::Value& config, const Checkpoint& checkpoint) {
  Sha256 hash;
  hash.update(json::dump(config));
  for (const auto& file : checkpoint.files()) {
    hash.update("\nfile " + std::to_string(file->file_bytes()));
    for (const safetensors::TensorInfo& info : file->tensors())
      hash.update("\n" + info.name + " " + info.dtype + " " + safetensors::shape_text(info.shape));
  }
  return hash.hex();
}

}  // namespace

LoadedConfig load_config(const ResolvedModel& resolved) {
  return read_config_files(resolved, read_object(*resolved.files, "config.json"));
}

LoadedConfig load_config(const std::string& model) { return load_config(resolve_model(model)); }

// What generate() of transformers applies to greedy decoding too, with the value that leaves the text alone; a list or
// an object leaves it alone when it is empty.
std::vector<std::string> unapplied_generation(const ModelFiles& files) {
  struct Key {
    const char* name;
    std::optional<double> neutral;  // none: any value acts
  };
  static const Key keys[] = {{"repetition_penalty", 1},
                             {"encoder_repetition_penalty", 1},
                             {"no_repeat_ngram_size", 0},
                             {"encoder_no_repeat_ngram_size", 0},
                             {"min_length", 0},
                             {"min_new_tokens", 0},
                             {"num_beams", 1},
                             {"penalty_alpha", 0},
                             {"guidance_scale", 1},
                             {"bad_words_ids", {}},
                             {"suppress_tokens", {}},
                             {"begin_suppress_tokens", {}},
                             {"sequence_bias", {}},
                             {"forced_bos_token_id", {}},
                             {"forced_eos_token_id", {}},
                             {"exponential_decay_length_penalty", {}},
                             {"stop_strings", {}},
                             {"force_words_ids", {}},
                             {"constraints", {}},
                             {"watermarking_config", {}},
                             {"dola_layers", {}},
                             {"token_healing", {}}};
  std::vector<std::string> out;
  if (!files.has("generation_config.json")) return out;
  const json::Value root = read_object(files, "generation_config.json");
  const json::Ref generation(root, files.where("generation_config.json"));
  for (const Key& key : keys) {
    const auto found = generation.find(key.name);
    if (!found) continue;
    const json::Value& value = found->value();
    const bool empty = (value.type() == json::Type::array && value.items().empty()) ||
                       (value.type() == json::Type::object && value.members().empty()) ||
                       (value.type() == json::Type::boolean && !value.boolean());
    if (empty || (key.neutral && value.is_number() && value.real() == *key.neutral)) continue;
    out.push_back(std::string(key.name) + " = " + json::dump(value));
  }
  return out;
}

LoadedModel load_model(const ResolvedModel& resolved) {
  const json::Value config = read_object(*resolved.files, "config.json");
  LoadedModel loaded;
  static_cast<LoadedConfig&>(loaded) = read_config_files(resolved, config);
  const Checkpoint checkpoint = Checkpoint::open(*resolved.files);
  loaded.weights = bind_weights(loaded.model, *families::find_family(loaded.family), loaded.format, checkpoint,
                                loaded.unknown_tensors);
  loaded.model_hash = hash_model(config, checkpoint);
  if (resolved.files->directory())
    for (const auto& file : checkpoint.files()) loaded.mapped.push_back(file->bytes());
  for (const auto& file : checkpoint.files()) file->check_unchanged();
  return loaded;
}

LoadedModel load_model(const std::string& model) { return load_model(resolve_model(model)); }

std::string hash_of_weights(const std::vector<std::pair<std::string, std::string>>& hashes) {
  Sha256 whole;
  for (const auto& [name, hash] : hashes) whole.update(hash + " " + name + "\n");
  return whole.hex();
}

std::vector<std::pair<std::string, std::string>> hash_weight_files(
    const ModelFiles& files, const HashCache& cache, const std::function<void(uint64_t, uint64_t)>& on_progress) {
  const Checkpoint checkpoint = Checkpoint::open(files);
  std::vector<std::pair<std::string, std::string>> hashes;
  uint64_t total = 0, done = 0;
  for (const auto& file : checkpoint.files()) {
    hashes.emplace_back(file->name().substr(file->name().rfind('/') + 1), "");
    total += file->file_bytes();
  }
  std::mutex mutex;
  const auto on_read = [&](uint64_t bytes) {
    const std::lock_guard lock(mutex);
    done += bytes;
    if (on_progress) on_progress(done, total);
  };
  const auto directory = files.directory();
  // One file is hashed by one thread; with several the disk is the limit.
  ThreadPool pool(static_cast<int>(std::clamp<size_t>(hashes.size(), 1, max_hashing_threads)));
  pool.parallel_for(static_cast<int64_t>(hashes.size()), [&](int64_t i, int) {
    auto& [name, hash] = hashes[static_cast<size_t>(i)];
    if (directory) {
      hash = hash_file(*directory / name, cache, on_read);
    } else {
      const auto bytes = checkpoint.files()[static_cast<size_t>(i)]->bytes();
      hash = Sha256().update(bytes.data(), bytes.size()).hex();
      on_read(bytes.size());
    }
  });
  return hashes;
}

}  // namespace signalbox::loaders
