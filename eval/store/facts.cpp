#include "eval/store/facts.h"

#include <ctime>

#include "base/error.h"
#include "base/file_hash.h"
#include "eval/store/manifest.h"
#include "probes/edit_spec.h"

namespace signalbox::eval {

namespace fs = std::filesystem;

namespace {

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm utc = {};
  gmtime_r(&now, &utc);
  char text[16];
  std::strftime(text, sizeof text, "%Y-%m-%d", &utc);
  return text;
}

}  // namespace

json::Value weights_json(const ModelFacts& facts) {
  json::Value weights = json::Value::object();
  for (const auto& [name, hash] : facts.weight_hashes) weights.set(name, hash);
  return weights;
}

json::Value model_hashes(const ModelFacts& facts) {
  const auto or_null = [](const std::optional<std::string>& hash) { return hash ? json::Value(*hash) : json::Value(); };
  json::Value hashes = json::Value::object();
  hashes.set("model", facts.model_hash).set("weights", weights_json(facts));
  hashes.set("tokenizer", or_null(facts.tokenizer_hash)).set("chat_template", or_null(facts.template_hash));
  return hashes;
}

json::Value stop_tokens_json(const ModelFacts& facts) {
  json::Value tokens = json::Value::array();
  for (const int32_t token : facts.stop_tokens) tokens.push_back(int64_t{token});
  return tokens;
}

std::string file_hash(const fs::path& file) { return hash_file(file, HashCache(HashCache::default_directory())); }

std::set<fs::path> files_of_edits(const json::Ref& edits, const fs::path& base_dir) {
  std::set<fs::path> files;
  for (const json::Ref& ref : edits.items()) {
    const EditSpec edit = EditSpec::parse(ref, base_dir, 0);
    for (const fs::path& file : {edit.file, edit.source.file})
      if (!file.empty()) files.insert(fs::is_directory(file) ? file / "trace.safetensors" : file);
    const auto experts = ref.find("experts");
    if (!experts || experts->value().type() != json::Type::object) continue;
    const auto from = experts->find("from");
    if (from && !from->string().starts_with("detect:")) files.insert(base_dir / from->string());
  }
  return files;
}

json::Value file_hashes(const std::set<fs::path>& files, const fs::path& base_dir) {
  json::Value hashes = json::Value::object();
  for (const fs::path& file : files)
    hashes.set(fs::absolute(file).lexically_relative(fs::absolute(base_dir)).generic_string(), file_hash(file));
  return hashes;
}

std::string date_of_work(const fs::path& dir, const std::string& schema) {
  const std::optional<Manifest> before = Manifest::read(dir, schema);
  if (!before) return today();
  const json::Value* variables = before->identity.find("template_variables");
  const json::Value* date =
      variables && variables->type() == json::Type::object ? variables->find("date") : before->identity.find("date");
  return date && date->is_string() ? date->string() : today();
}

}  // namespace signalbox::eval
