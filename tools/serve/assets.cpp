#include "tools/serve/assets.h"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/text.h"
#include "probes/points.h"
#include "tools/serve/timelines.h"

namespace signalbox::tools {

namespace {

constexpr std::string_view asset_prefix = "asset:";

bool is_asset_name(std::string_view name) {
  return !name.empty() && name.size() <= 128 && name != "." && name != ".." &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return is_ascii_letter(c) || is_ascii_digit(c) || c == '.' || c == '_' || c == '-';
         });
}

}  // namespace

Assets::Assets(const std::filesystem::path& directory)
    : directory_(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
  if (directory_ < 0)
    throw Error(directory.string() + " (--assets)", "expected a directory, found " + std::string(std::strerror(errno)));
}

Assets::~Assets() {
  if (directory_ >= 0) ::close(directory_);
}

int Assets::open(const std::string& name, const json::Ref& where) const {
  if (directory_ < 0) where.fail("expected no file: this server was started without --assets");
  if (!is_asset_name(name)) where.fail("expected asset:NAME of letters, digits, '.', '_' and '-', at most 128");
  // Not blocking: a FIFO must not hold the server.
  open_how how = {};
  how.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS;
  int descriptor = static_cast<int>(::syscall(SYS_openat2, directory_, name.c_str(), &how, sizeof how));
  // Kernels before 5.6; a name without '/' leads nowhere else.
  if (descriptor < 0 && errno == ENOSYS)
    descriptor = ::openat(directory_, name.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
  struct stat found = {};
  if (descriptor >= 0 && ::fstat(descriptor, &found) == 0 && S_ISREG(found.st_mode)) return descriptor;
  if (descriptor >= 0) ::close(descriptor);
  where.fail("expected a regular file among the assets, found none of this name");
}

// ---- edits

EditFiles::EditFiles(const json::Ref& edits, const Assets& assets, const OpenTimeline& open_timeline)
    : assets_(assets), open_timeline_(open_timeline) {
  for (const json::Ref& edit : edits.items()) {
    edit.expect_object();
    json::Value copy = edit.value();
    for (const char* key : {"trace", "from"})
      if (const auto value = edit.find(key)) put_trace(copy, copy, key, *value);
    if (const auto value = edit.find("rates")) copy.set("rates", path_of(*value, false));
    if (const auto value = edit.find("vector")) copy.set("vector", path_of(*value, true));
    if (const auto value = edit.find("value")) {
      if (value->value().type() == json::Type::object) {
        json::Value inner = value->value();
        if (const auto mean = value->find("mean_of")) put_trace(copy, inner, "mean_of", *mean);
        copy.set("value", std::move(inner));
      } else if (!value->value().is_string() || value->string() != "zero") {
        copy.set("value", path_of(*value, true));
      }
    }
    if (const auto experts = edit.find("experts"); experts && experts->value().type() == json::Type::object)
      if (const auto from = experts->find("from")) {
        json::Value inner = experts->value();
        inner.set("from", path_of(*from, false));
        copy.set("experts", std::move(inner));
      }
    edits_.push_back(std::move(copy));
  }
}

EditFiles::~EditFiles() {
  for (const int descriptor : descriptors_) ::close(descriptor);
}

void EditFiles::put_trace(json::Value& edit, json::Value& holder, const char* key, const json::Ref& value) {
  const std::string id = timeline_name(value.value());
  if (id.empty()) {
    holder.set(key, path_of(value, false));
    return;
  }
  const json::Value* point = edit.find("point");
  const std::string points =
      (point && point->is_string() ? point->string() + "," : std::string()) + std::string(default_points);
  const TimelineTrace trace = open_timeline_(id, points, value);
  descriptors_.push_back(trace.descriptor);
  const std::string path = "/proc/self/fd/" + std::to_string(trace.descriptor);
  names_.emplace_back(path, "timeline:" + id);
  holder.set(key, path);
  if (std::string_view(key) != "mean_of" && !edit.find("sample")) edit.set("sample", trace.sample);
}

json::Value EditFiles::path_of(const json::Ref& value, bool with_tensor) {
  // A tensor may stand in the edit itself: its numbers name no file.
  if (with_tensor && value.value().type() == json::Type::array) return value.value();
  const std::string& text = value.string();
  if (!timeline_name(value.value()).empty())
    value.fail("expected asset:NAME" + std::string(with_tensor ? ":TENSOR or numbers" : "") +
               ", for a timeline holds rows of tokens: they go where an edit takes a trace");
  if (!text.starts_with(asset_prefix))
    value.fail("expected asset:NAME or timeline:ID, for over HTTP edits name no file");
  std::string name = text.substr(asset_prefix.size()), tensor;
  if (with_tensor) {
    const size_t colon = name.find(':');
    if (colon == std::string::npos) value.fail("expected asset:NAME:TENSOR");
    tensor = name.substr(colon);
    name.resize(colon);
  }
  descriptors_.push_back(assets_.open(name, value));
  const std::string path = "/proc/self/fd/" + std::to_string(descriptors_.back());
  names_.emplace_back(path, std::string(asset_prefix) + name);
  return path + tensor;
}

std::string EditFiles::told(std::string message) const {
  // Longer paths first: .../fd/12 before .../fd/1.
  for (auto name = names_.rbegin(); name != names_.rend(); ++name)
    for (size_t at; (at = message.find(name->first)) != std::string::npos;)
      message.replace(at, name->first.size(), name->second);
  return message;
}

}  // namespace signalbox::tools
