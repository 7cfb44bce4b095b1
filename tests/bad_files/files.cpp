#include "tests/bad_files/files.h"

#include <cstring>
#include <filesystem>

#include "loaders/families/family.h"
#include "loaders/model/load.h"
#include "loaders/synthetic/make_model.h"
#include "tests/support.h"

namespace signalbox::test {

std::string safetensors_bytes(std::string_view header, size_t data_bytes, int64_t length) {
  const uint64_t n = length < 0 ? header.size() : static_cast<uint64_t>(length);
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &n, 8);
  return bytes + std::string(header) + std::string(data_bytes, '\0');
}

Files made_model(std::string_view spec) {
  TemporaryDirectory directory;
  synthetic::make_model(json::parse(spec, "spec"), "spec", directory.path());
  Files files;
  for (const auto& entry : std::filesystem::directory_iterator(directory.path()))
    files[entry.path().filename().string()] = read_file(entry.path());
  return files;
}

std::string example_config(std::string_view family, const std::map<std::string, std::string>& changes) {
  const json::Value example = json::parse(families::find_family(family)->example, "example");
  json::Value config = json::Value::object();
  for (const auto& [key, value] : example.members())
    if (!changes.contains(key)) config.append_member(key, value);
  for (const auto& [key, text] : changes)
    if (text != "absent") config.append_member(key, json::parse(text, key));
  return json::dump(config);
}

std::string load_message(const Files& files) {
  TemporaryDirectory directory;
  for (const auto& [name, text] : files) write_file(directory / name, text);
  try {
    load_model(directory.path().string());
  } catch (const Error& error) {
    return error.what();
  }
  return "loaded";
}

bool good_message(const std::string& message, std::string_view expected) {
  return message.find(expected) != std::string::npos && message.find('\n') == std::string::npos &&
         message.find(": ") != std::string::npos && message.size() < 1000;
}

}  // namespace signalbox::test
