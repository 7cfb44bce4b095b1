#include <fstream>
#include <system_error>

#include "loaders/tokenizer/kinds.h"

namespace signalbox::loaders {
namespace {

constexpr uintmax_t max_file_bytes = uintmax_t{1} << 30;

std::optional<std::string> read_file(const std::filesystem::path& file) {
  std::error_code code;
  const auto status = std::filesystem::status(file, code);
  if (status.type() == std::filesystem::file_type::not_found) return std::nullopt;
  if (code) throw Error(file.string(), "expected a readable file: " + code.message());
  if (!std::filesystem::is_regular_file(status)) throw Error(file.string(), "expected a regular file");
  const uintmax_t size = std::filesystem::file_size(file, code);
  if (code) throw Error(file.string(), "expected a readable file: " + code.message());
  if (size > max_file_bytes)
    throw Error(file.string(),
                "expected at most " + std::to_string(max_file_bytes) + " bytes, found " + std::to_string(size));
  std::ifstream in(file, std::ios::binary);
  std::string content(size, '\0');
  if (!in || !in.read(content.data(), static_cast<std::streamsize>(size)))
    throw Error(file.string(), "expected a readable file of " + std::to_string(size) + " bytes");
  return content;
}

}  // namespace

bool has_tokenizer(const std::filesystem::path& directory) {
  std::error_code code;
  return std::filesystem::exists(directory / "tokenizer.json", code) ||
         std::filesystem::exists(directory / "tokenizer.model", code);
}

TokenizerFiles read_tokenizer_files(const std::filesystem::path& directory) {
  TokenizerFiles files;
  files.where = (directory / "").string();
  files.tokenizer_json = read_file(directory / "tokenizer.json");
  if (!files.tokenizer_json) files.tokenizer_model = read_file(directory / "tokenizer.model");
  files.tokenizer_config_json = read_file(directory / "tokenizer_config.json");
  files.special_tokens_map_json = read_file(directory / "special_tokens_map.json");
  if (!files.tokenizer_json) files.added_tokens_json = read_file(directory / "added_tokens.json");
  return files;
}

std::unique_ptr<Tokenizer> make_tokenizer(const TokenizerFiles& files) {
  tokenizer::Config config = tokenizer::read_config(files);
  if (files.tokenizer_json) return tokenizer::make_hub_tokenizer(files, std::move(config));
  if (files.tokenizer_model) return tokenizer::make_sentencepiece(files, std::move(config));
  throw Error(files.where.empty() ? "tokenizer" : files.where,
              "expected a tokenizer.json or a tokenizer.model, found neither");
}

std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& directory) {
  return make_tokenizer(read_tokenizer_files(directory));
}

}  // namespace signalbox::loaders
