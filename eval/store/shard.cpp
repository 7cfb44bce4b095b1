#include "eval/store/shard.h"

#include <charconv>
#include <cstdlib>
#include <string_view>

#include "base/error.h"

namespace signalbox::eval {

namespace {

std::optional<int64_t> whole_number(std::string_view text) {
  int64_t value = -1;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (failed != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

}  // namespace

std::string Shard::text() const { return std::to_string(index) + "/" + std::to_string(count); }

Shard parse_shard(const std::string& text, const std::string& where) {
  const size_t slash = text.find('/');
  if (slash != std::string::npos) {
    const auto index = whole_number(std::string_view(text).substr(0, slash));
    const auto count = whole_number(std::string_view(text).substr(slash + 1));
    if (index && count && *index < *count) return {*index, *count};
  }
  throw UsageError(where, "expected I/N with I from 0 to N - 1, found \"" + text + "\"");
}

std::optional<Shard> slurm_shard(const Environment& environment) {
  const auto text = [&](const char* name) -> const char* {
    return environment ? environment(name) : std::getenv(name);
  };
  const auto number = [&](const char* name) -> std::optional<int64_t> {
    const char* found = text(name);
    if (!found) return std::nullopt;
    const auto value = whole_number(found);
    if (!value) throw UsageError(name, "expected a whole number, found \"" + std::string(found) + "\"");
    return value;
  };
  const auto id = number("SLURM_ARRAY_TASK_ID");
  if (!id) return std::nullopt;
  const auto first = number("SLURM_ARRAY_TASK_MIN"), last = number("SLURM_ARRAY_TASK_MAX"),
             given = number("SLURM_ARRAY_TASK_COUNT");
  const int64_t step = number("SLURM_ARRAY_TASK_STEP").value_or(1), min = first.value_or(0);
  if (step < 1) throw UsageError("SLURM_ARRAY_TASK_STEP", "expected at least 1, found " + std::to_string(step));
  if (given == 1) return std::nullopt;
  if (!given && !(first && last))
    throw UsageError("SLURM_ARRAY_TASK_COUNT", "expected the array's number of tasks, found none (give --shard I/N)");
  const int64_t count = given ? *given : (*last - min) / step + 1;
  // Ids such as 1,3,7 or 2,5 (failed tasks that run again) do not say which shards they are.
  const bool even = *id >= min && (*id - min) % step == 0 && (*id - min) / step < count &&
                    (!last || (*last >= *id && (*last - min) / step + 1 == count));
  if (!even)
    throw UsageError("SLURM_ARRAY_TASK_ID", "expected one of " + std::to_string(count) + " evenly spaced tasks from " +
                                                std::to_string(min) + (step > 1 ? " by " + std::to_string(step) : "") +
                                                ", found " + std::to_string(*id) + " (give --shard I/N)");
  if (count == 1) return std::nullopt;
  return Shard{(*id - min) / step, count};
}

Shard choose_shard(const std::string& given, std::string& told, const Environment& environment) {
  told.clear();
  if (!given.empty()) return parse_shard(given);
  const auto slurm = slurm_shard(environment);
  if (!slurm) return {};
  told = "shard " + slurm->text() + ", from SLURM_ARRAY_TASK_ID (--shard I/N decides otherwise)";
  return *slurm;
}

}  // namespace signalbox::eval
