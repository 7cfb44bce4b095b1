#include "loaders/synthetic/make_model.h"

#include "base/files.h"
#include "base/utf8.h"
#include "loaders/synthetic/circuits.h"
#include "loaders/synthetic/planting.h"
#include "loaders/synthetic/spec.h"
#include "loaders/synthetic/store.h"
#include "loaders/synthetic/values.h"

namespace signalbox::loaders::synthetic {

namespace {

constexpr const char* begin_text = "<|begin|>";
constexpr const char* end_text = "<|end|>";

// A byte-level tokenizer without merges: token i is byte i, written as GPT-2's table writes bytes.
json::Value byte_tokenizer() {
  json::Value vocabulary = json::Value::object();
  uint32_t spare = 256;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    std::string text;
    append_utf8(text, printable ? byte : spare++);
    vocabulary.append_member(text, json::Value(static_cast<int64_t>(byte)));
  }
  json::Value root = json::parse(R"({"version":"1.0","truncation":null,"padding":null,"added_tokens":[],
"normalizer":null,"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false},
"post_processor":null,"decoder":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false},
"model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,
"fuse_unk":false,"byte_fallback":false}})",
                                 "tokenizer");
  json::Value added = json::Value::array();
  int64_t id = 256;
  for (const char* text : {begin_text, end_text}) {
    json::Value token = json::Value::object();
    token.set("id", json::Value(id++)).set("content", json::Value(text));
    for (const char* key : {"single_word", "lstrip", "rstrip", "normalized"}) token.set(key, json::Value(false));
    token.set("special", json::Value(true));
    added.push_back(std::move(token));
  }
  root.set("added_tokens", std::move(added));
  json::Value model = *root.find("model");
  model.set("vocab", std::move(vocabulary)).set("merges", json::Value::array());
  root.set("model", std::move(model));
  return root;
}

json::Value tokenizer_config() {
  json::Value root = json::Value::object();
  root.set("tokenizer_class", json::Value("PreTrainedTokenizerFast"));
  root.set("bos_token", json::Value(begin_text)).set("eos_token", json::Value(end_text));
  root.set("chat_template", json::Value("{{ bos_token }}{% for message in messages %}{{ message['role'] }}: "
                                        "{{ message['content'] }}\n{% endfor %}"
                                        "{% if add_generation_prompt %}assistant:{% endif %}"));
  return root;
}

// The spec with the truth of its circuits. A spec that holds a truth already, as make-model.json of a model does, must
// hold the one that comes of it.
json::Value add_truth(const json::Value& value, const Spec& spec, const Circuits& circuits, const std::string& where) {
  if (circuits.empty()) {
    if (!spec.truth.is_null()) throw Error(where + ": truth", "expected none in a spec without circuits, found one");
    return value;
  }
  json::Value truth = json::Value::object(), out = value;
  truth.set("circuits", circuits.truth());
  // Numbers compare as they are read back.
  if (!spec.truth.is_null() && !(spec.truth == json::parse(json::dump(truth), "truth")))
    throw Error(where + ": truth", "expected none, or the truth of this spec's circuits, found another");
  out.set("truth", std::move(truth));
  return out;
}

}  // namespace

Summary make_model(const json::Value& value, const std::string& where, const std::filesystem::path& directory,
                   const std::function<void(uint64_t, uint64_t)>& progress) {
  const Spec spec = read_spec(value, where);
  Reserved reserved(spec.model, spec.init.embed, spec.circuits.empty() ? 1 : circuit_constant);
  const Planting planting(spec, reserved);
  const Circuits circuits(spec, reserved);
  const Values values(spec, reserved, planting, circuits);
  const json::Value with_truth = add_truth(value, spec, circuits, where);
  std::error_code code;
  std::filesystem::create_directories(directory, code);
  if (!std::filesystem::is_directory(directory))
    throw Error(directory.string(), "cannot make the directory" + (code ? ": " + code.message() : std::string()));

  // config.json last: a directory without it is no model, so one that was broken off is not taken for whole.
  // What an earlier model left would be read in the place of, or beside, the new files.
  for (const char* name : {"config.json", "model.safetensors", "model.safetensors.index.json", "planted.json",
                           "tokenizer.json", "tokenizer_config.json"})
    std::filesystem::remove(directory / name, code);
  for (size_t i = 0; std::filesystem::remove(directory / Circuits::records_file(i), code); ++i) {
  }
  remove_temporaries(directory);
  write_file_atomically(directory / spec_file, json::dump(with_truth, 2) + "\n");
  const Stored stored = write_weights(spec, values, directory, progress);
  if (spec.tokenizer) {
    write_file_atomically(directory / "tokenizer.json", json::dump(byte_tokenizer(), 1) + "\n");
    write_file_atomically(directory / "tokenizer_config.json", json::dump(tokenizer_config(), 2) + "\n");
  }
  if (!spec.plants.empty()) write_file_atomically(directory / "planted.json", json::dump(planting.truth(), 2) + "\n");
  for (size_t i = 0; i < spec.circuits.size(); ++i)
    write_file_atomically(directory / Circuits::records_file(i), circuits.records(i));
  json::Value generation = json::Value::object();
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"})
    if (const json::Value* id = spec.config.find(key); id && !id->is_null()) generation.set(key, *id);
  write_file_atomically(directory / "generation_config.json", json::dump(generation, 2) + "\n");
  write_file_atomically(directory / "config.json", json::dump(spec.config, 2) + "\n");

  Summary summary;
  summary.family = spec.family->model_type;
  summary.parameters = count_parameters(spec.model).total;
  summary.bytes = stored.bytes;
  summary.files = stored.files;
  summary.planted = spec.plants.size();
  summary.circuits = spec.circuits.size();
  return summary;
}

}  // namespace signalbox::loaders::synthetic
