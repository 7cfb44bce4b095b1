#include "loaders/open.h"

#include <algorithm>
#include <charconv>

#include "base/sha256.h"
#include "engine/adapters.h"
#include "engine/device_weights.h"
#include "engine/low_rank.h"
#include "loaders/families/family.h"
#include "loaders/model/load.h"
#include "loaders/peft/base_model.h"
#include "loaders/peft/read.h"
#include "loaders/template/chat_template.h"
#include "loaders/tokenizer/tokenizer.h"

namespace signalbox::loaders {

namespace {

std::optional<std::string> read_if_there(const ModelFiles& files, const std::string& name) {
  if (!files.has(name)) return std::nullopt;
  return files.read(name);
}

// Ascending, each once.
std::vector<int32_t> stop_tokens_of(const LoadedModel& loaded, const Tokenizer* tokenizer) {
  std::vector<int32_t> tokens = loaded.stop_tokens;
  if (tokenizer && loaded.eos_text)
    if (const auto id = tokenizer->id_of(*loaded.eos_text)) tokens.push_back(*id);
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  return tokens;
}

// Adapters become a part of the weights, or stand beside them, and of what the model is called by.
void read_adapters(LoadedModel& loaded, const OpenOptions& options, Session& session) {
  if (options.adapters.empty()) return;
  std::vector<ModelAdapter> adapters;
  Sha256 hash;
  hash.update(loaded.model_hash);
  for (const std::string& directory : options.adapters) {
    adapters.push_back(peft::read_adapter(directory, *families::find_family(loaded.family), loaded.model));
    const ModelAdapter& read = adapters.back();
    session.adapters.push_back({directory, read.hash});
    if (options.on_note) {
      const auto weights = [&] {
        return hash_of_weights(hash_weight_files(*loaded.resolved.files, HashCache(HashCache::default_directory())));
      };
      const std::string other = peft::other_base(directory, peft::made_for(directory), loaded.resolved, weights);
      if (!other.empty()) options.on_note(other);
    }
    if (options.on_adapted) {
      for (const AdaptedMatrix& one : read.matrices) options.on_adapted(one.id);
      for (const WholeTensor& one : read.whole) options.on_adapted(one.id);
    }
    hash.update((options.merge_adapters ? "\nadapter " : "\nadapter beside ") + adapters.back().hash);
  }
  if (options.merge_adapters) {
    merge_adapters(loaded.model, loaded.weights, adapters, session.backend->n_threads());
  } else {
    session.beside = std::make_shared<const AdapterSum>(std::move(adapters));
  }
  loaded.model_hash = hash.hex();
}

}  // namespace

std::optional<DeviceChoice> parse_device(const std::string& text) {
  if (text == "auto") return DeviceChoice{};
  if (text == "cpu") return DeviceChoice{DeviceChoice::Kind::cpu, 0};
  if (text == "cuda") return DeviceChoice{DeviceChoice::Kind::cuda, 0};
  if (!text.starts_with("cuda:")) return std::nullopt;
  DeviceChoice choice{DeviceChoice::Kind::cuda, 0};
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data() + 5, end, choice.index);
  if (error != std::errc() || rest != end || choice.index < 0) return std::nullopt;
  return choice;
}

std::unique_ptr<Backend> open_backend(const OpenOptions& options) {
  using Kind = DeviceChoice::Kind;
  const bool automatic = options.device.kind == Kind::automatic;
  if (options.device.kind == Kind::cuda || (automatic && built_with_cuda() && cuda_unavailable().empty())) {
    if (const std::string reason = cuda_unavailable(); !reason.empty())
      throw Error("device cuda:" + std::to_string(options.device.index), reason);
    CudaOptions cuda;
    cuda.device = options.device.index;
    cuda.invariant = options.numerics == "invariant";
    return make_cuda_backend(cuda);
  }
  return make_cpu_backend({options.threads, options.isa, options.numerics == "fast"});
}

TextTools open_text(const ModelFiles& files) {
  TextTools text;
  TokenizerFiles tokenizer;
  tokenizer.tokenizer_json = read_if_there(files, "tokenizer.json");
  tokenizer.tokenizer_model = read_if_there(files, "tokenizer.model");
  tokenizer.tokenizer_config_json = read_if_there(files, "tokenizer_config.json");
  tokenizer.special_tokens_map_json = read_if_there(files, "special_tokens_map.json");
  tokenizer.added_tokens_json = read_if_there(files, "added_tokens.json");
  const std::string some_file = files.where("tokenizer.json");
  tokenizer.where = some_file.substr(0, some_file.rfind('/') + 1);
  if (tokenizer.tokenizer_json || tokenizer.tokenizer_model) text.tokenizer = make_tokenizer(tokenizer);

  // Models in a directory may keep a second template in a folder of its own, which ModelFiles does not reach into.
  if (const auto directory = files.directory()) {
    text.chat_template = jinja::load_chat_template(*directory);
  } else {
    text.chat_template = jinja::load_chat_template(
        {[&](const std::string& name) { return read_if_there(files, name); }, tokenizer.where});
  }
  return text;
}

Session open_session(const std::string& model, const OpenOptions& options) {
  Session session;
  session.backend = open_backend(options);
  session.numerics = options.numerics;
  session.options.chunk = options.chunk > 0 ? options.chunk : default_chunk(*session.backend);
  LoadedModel loaded = load_model(resolve_model(model, options.builtin));
  if (options.on_model) options.on_model(probe_shape(loaded.model));
  read_adapters(loaded, options, session);
  if (!session.backend->shares_host_memory()) {
    require_device_memory(*session.backend, loaded.model, loaded.weights, KvPool::block_size, session.options.chunk);
    const int64_t total = host_weight_bytes(loaded.model, loaded.weights);
    loaded.weights = upload_weights(*session.backend, loaded.model, loaded.weights, [&](int64_t done) {
      if (options.on_upload) options.on_upload(done, total);
    });
  } else {
    ResidentOptions resident;
    resident.policy = options.load;
    resident.threads = session.backend->n_threads();
    resident.mapped = loaded.mapped;
    resident.on_progress = options.on_upload;
    session.weight_memory = make_resident(loaded.model, loaded.weights, resident);
    if (options.on_warning && !session.weight_memory.warning.empty()) options.on_warning(session.weight_memory.warning);
  }
  TextTools text = open_text(*loaded.resolved.files);
  session.tokenizer = std::move(text.tokenizer);
  session.chat_template = std::move(text.chat_template);
  session.stop_tokens = stop_tokens_of(loaded, session.tokenizer.get());

  session.name = loaded.resolved.name;
  session.path = session.label = loaded.resolved.path;
  session.commit = loaded.resolved.commit;
  session.family = loaded.family;
  session.model_hash = loaded.model_hash;
  session.hash_weights = [files = loaded.resolved.files, adapters = session.adapters,
                          kind =
                              session.beside ? "adapter beside " : "adapter "](const Session::OnHashed& on_progress) {
    auto hashes = hash_weight_files(*files, HashCache(HashCache::default_directory()), on_progress);
    for (size_t i = 0; i < adapters.size(); ++i) hashes.emplace_back(kind + std::to_string(i + 1), adapters[i].hash);
    return hashes;
  };
  session.unknown_tensors = std::move(loaded.unknown_tensors);
  session.model = std::move(loaded.model);
  session.shape = probe_shape(session.model);
  session.weights = std::move(loaded.weights);

  session.encode.tokenizer = session.tokenizer.get();
  session.encode.chat_template = session.chat_template.get();
  session.encode.n_vocab = session.model.n_vocab;
  session.options.tokenizer = session.tokenizer.get();
  session.options.stop_tokens = session.stop_tokens;
  return session;
}

}  // namespace signalbox::loaders
