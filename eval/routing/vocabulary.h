// Which tokens an expert takes: vocabulary.csv (by the token that is read) and vocabulary_next.csv (by the one that
// follows it in the text).
#pragma once
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/namespaces.h"
#include "eval/routing/route_walk.h"

namespace signalbox::eval {

enum class VocabularyOf : uint8_t { input, next };

struct VocabularyRow {
  int32_t layer = 0, expert = 0, token = 0;
  int64_t count = 0;     // tokens of this id (or before it) that select the expert
  int64_t seen = 0;      // N_x: tokens of this id (or before it)
  int64_t selected = 0;  // N_e
  int64_t tokens = 0;    // T
  double share() const { return static_cast<double>(count) / static_cast<double>(seen); }
  double pmi() const;  // log2(count T / (N_e N_x))
};

struct VocabularyOptions {
  int64_t min_count = 5;  // tokens seen less often are left out
  int64_t top = 0;        // rows of each expert, by pmi, then count, then token id; 0 = all
};

// Rows with count > 0, by layer, expert and then as `top` orders them.
std::vector<VocabularyRow> vocabulary(const TraceSet& set, const RouteOptions& options, VocabularyOf of,
                                      const VocabularyOptions& limits);

// How the vocabulary spells each token that the traces' texts.jsonl have pieces of. Throws Error for lines that break
// its schema.
std::map<int32_t, std::string> token_texts(const TraceSet& set);

void write_vocabulary_csv(const std::filesystem::path& file, const std::vector<VocabularyRow>& rows,
                          const std::map<int32_t, std::string>& texts);

}  // namespace signalbox::eval
