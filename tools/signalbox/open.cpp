// Opening models and their text tools.
#include <algorithm>
#include <charconv>

#include "engine/device_weights.h"
#include "loaders/template/chat_template.h"
#include "loaders/tokenizer/tokenizer.h"
#include "tools/signalbox/common.h"

namespace signalbox {

namespace {

std::optional<std::string> read_if_there(const ModelFiles& files, const std::string& name) {
  if (!files.has(name)) return std::nullopt;
  return files.read(name);
}

OpenedText open_text_files(const ModelFiles& files) {
  OpenedText text;
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

}  // namespace

OpenedText open_text(const std::string& model, const CommonOptions&, bool tokenizer_required) {
  const ResolvedModel resolved = resolve_model(model);
  OpenedText text = open_text_files(*resolved.files);
  if (tokenizer_required && !text.tokenizer)
    throw Error(resolved.path, "expected tokenizer.json or tokenizer.model, found neither");
  return text;
}

std::unique_ptr<Backend> open_backend(const CommonOptions& options) {
  const std::string& device = options.device;
  CudaOptions cuda;
  cuda.invariant = options.numerics == "invariant";
  bool wants_cuda = device == "cuda";
  if (device.starts_with("cuda:")) {
    const char* end = device.data() + device.size();
    const auto [rest, error] = std::from_chars(device.data() + 5, end, cuda.device);
    wants_cuda = error == std::errc() && rest == end && cuda.device >= 0;
  }
  if (!wants_cuda && device != "auto" && device != "cpu")
    throw UsageError("--device", "expected auto, cpu or cuda[:N], found \"" + device + "\"");
  if (device == "auto") wants_cuda = built_with_cuda() && cuda_unavailable().empty();
  if (wants_cuda) {
    if (const std::string reason = cuda_unavailable(); !reason.empty()) throw Error("--device " + device, reason);
    return make_cuda_backend(cuda);
  }
  return make_cpu_backend({options.threads, options.isa});
}

OpenedModel open_model(const CommonOptions& options) {
  OpenedModel model;
  model.backend = open_backend(options);
  const ResolvedModel resolved = resolve_model(options.model);
  model.loaded = load_model(resolved);
  if (!model.backend->shares_host_memory()) {
    require_device_memory(*model.backend, model.loaded.model, model.loaded.weights, KvPool::block_size);
    Progress progress("loading", host_weight_bytes(model.loaded.model, model.loaded.weights), options.quiet);
    model.loaded.weights = upload_weights(*model.backend, model.loaded.model, model.loaded.weights,
                                          [&](int64_t bytes) { progress.update(bytes); });
  }
  OpenedText text = open_text_files(*resolved.files);
  model.tokenizer = std::move(text.tokenizer);
  model.chat_template = std::move(text.chat_template);
  model.shape = probe_shape(model.loaded.model);
  model.stop_tokens = model.loaded.stop_tokens;
  if (model.tokenizer && model.loaded.eos_text)
    if (auto id = model.tokenizer->id_of(*model.loaded.eos_text)) model.stop_tokens.push_back(*id);
  std::sort(model.stop_tokens.begin(), model.stop_tokens.end());
  model.stop_tokens.erase(std::unique(model.stop_tokens.begin(), model.stop_tokens.end()), model.stop_tokens.end());
  return model;
}

}  // namespace signalbox
