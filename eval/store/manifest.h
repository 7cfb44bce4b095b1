// manifest.json: what a run is, what it ran on, and how far it came.
#pragma once
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "eval/store/layout.h"
#include "eval/store/shard.h"

namespace signalbox::eval {

inline constexpr const char* manifest_file = "manifest.json";
inline constexpr const char* run_schema = "signalbox.run/1";  // of `signalbox run`; other commands have their own

enum class RunStatus : uint8_t { running, interrupted, failed, complete };
const char* run_status_name(RunStatus status);

// Now, as "2026-01-31T09:30:00Z".
std::string utc_now();

// One process that worked on the directory. `end` is empty while it runs, and stays so when it is killed.
struct RunAttempt {
  std::string start, end;
  RunStatus status = RunStatus::running;
};

// In the file the members of `identity` and `info` stand at the top level, beside schema, status, start, end, shard,
// seeds, layout, attempts, and `compared`, the names of the identity's members.
struct Manifest {
  // All that determines results and is not in `layout` or `shard`: version, spec as resolved without paths that do not
  // matter, hashes of weights, tokenizer and data, scoring rules, isa, numerics, device kind, ... An object.
  json::Value identity = json::Value::object();
  // For information, not compared: argv, the spec as given with its hash, build, threads, batch, ... An object.
  json::Value info = json::Value::object();
  std::string schema = run_schema;
  Shard shard;
  std::optional<Layout> layout;  // none before it is known which interventions there are
  RunStatus status = RunStatus::running;
  std::string start, end;  // of the first attempt; of the last one that ended
  std::vector<RunAttempt> attempts;

  json::Value to_json() const;
  static Manifest from_json(const json::Ref& value, const std::string& schema = run_schema);  // throws Error

  // The directory's manifest, or none where it has no such file. Throws Error when it is not one of this schema.
  static std::optional<Manifest> read(const std::filesystem::path& dir, const std::string& schema = run_schema);
  void write(const std::filesystem::path& dir) const;  // atomically; throws Error
};

// The schema that a directory's manifest names, whatever it is; empty where there is no manifest, or none that can be
// read.
std::string schema_of(const std::filesystem::path& dir);

// What differs between two JSON values: "spec.generate.max_tokens: was 32, now 64", members of objects and items of
// arrays of one length apart, long values shortened, "nothing" for what is absent; in the order of `was`, then `now`.
std::vector<std::string> differences(const json::Value& was, const json::Value& now, const std::string& path = "");

// Those of everything that decides results: identity and shard; where these are equal and both have one, layout.
std::vector<std::string> differences(const Manifest& was, const Manifest& now);

// Up to eight of them in one line, joined by "; ".
std::string joined_differences(const std::vector<std::string>& differences);

}  // namespace signalbox::eval
