// lens.csv and its summary.json, and tables of it for people.
#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/namespaces.h"
#include "eval/lens/lens_rows.h"

namespace signalbox::eval {

inline constexpr const char* lens_schema = "signalbox.lens/1";

// What was read, for summary.json.
struct LensWork {
  std::string schema;
  const Session& session;
  const std::vector<Record>& records;
  const EditPlan* plan = nullptr;   // null: no edits
  std::filesystem::path edits_dir;  // that their relative paths begin at
  uint64_t seed = 0;
  TokenChoice choice;
  const ChosenTokens& chosen;
  std::vector<int32_t> layers;
};
// Model, data, edits, device and choice of tokens: what lens and vocabulary both say of their work.
json::Value lens_summary(const LensWork& work);

// Throws Error where the file system has no room for what the run will write.
void require_room(const LensRows& rows, const ChosenTokens& chosen, const std::filesystem::path& dir);
// About so many bytes lens.csv will take.
double lens_csv_bytes(const LensRows& rows);

// lens.csv: id, position, layer, point, rank, token, text, logit, logprob. Returns how many rows it has. `on_progress`
// is told how many tokens are done; it may throw.
int64_t write_lens_csv(LensRows& rows, const std::vector<Record>& records, const Tokenizer* tokenizer,
                       const std::filesystem::path& file, const std::function<void(int64_t)>& on_progress);

// The last chosen token of a record, a line for each layer: what the model would say if it ended there. Where parts of
// given tokens are recorded, a table of each such token's shares too. In lines of `width` columns; 0: any.
std::string lens_text(LensRows& rows, const ChosenTokens& chosen, int64_t record, const Tokenizer* tokenizer,
                      int width);

}  // namespace signalbox::eval
