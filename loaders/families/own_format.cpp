// quantization_config of checkpoints that the engine quantised itself, which all families may be.
#include "base/dtype.h"
#include "loaders/families/family.h"

namespace signalbox::loaders::families {

namespace {

struct Word {
  const char* name;
  DType format;
};
constexpr Word formats[] = {{"int8", DType::int8}, {"int4", DType::int4}, {"mxfp4", DType::mxfp4}};

}  // namespace

DType format_of_word(std::string_view word) {
  for (const Word& known : formats)
    if (word == known.name) return known.format;
  return DType::other;
}

json::Value without_quantization(const json::Value& config) {
  json::Value out = json::Value::object();
  for (const auto& [key, value] : config.members())
    if (key != "quantization_config") out.append_member(key, value);
  return out;
}

DType own_format(const json::Value& config, const std::string& where) {
  if (config.type() != json::Type::object) return DType::other;
  const json::Ref root(config, where);
  const auto quantization = root.find("quantization_config");
  if (!quantization || quantization->value().type() != json::Type::object) return DType::other;
  const auto method = quantization->find("quant_method");
  if (!method || method->value() != json::Value("signalbox")) return DType::other;
  for (const auto& [key, value] : quantization->value().members())
    if (key != "quant_method" && key != "format" && key != "block")
      quantization->fail("expected the keys \"quant_method\", \"format\" and \"block\", found \"" + key + "\"");
  const json::Ref format = quantization->at("format");
  const DType found = format_of_word(format.string());
  if (found == DType::other) format.fail_type("\"int8\", \"int4\" or \"mxfp4\"");
  const json::Ref block = quantization->at("block");
  if (block.integer(1, INT32_MAX) != weight_block) block.fail_type("32");
  return found;
}

json::Value with_own_format(const json::Value& config, DType format) {
  json::Value quantization = json::Value::object();
  quantization.set("quant_method", "signalbox");
  for (const Word& known : formats)
    if (known.format == format) quantization.set("format", known.name);
  quantization.set("block", weight_block);
  return without_quantization(config).set("quantization_config", std::move(quantization));
}

}  // namespace signalbox::loaders::families
