#include "eval/routing/vocabulary.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <tuple>

#include "base/csv.h"
#include "base/files.h"
#include "base/json.h"
#include "base/text.h"

namespace signalbox::eval {

namespace {

constexpr size_t most_cells = size_t{1} << 27;  // of all tables that are counted at once

int32_t token_of(const SampleRoutes& routes, size_t i, VocabularyOf of) {
  return of == VocabularyOf::input ? routes.tokens[i] : routes.next_tokens[i];
}

// A number of each token: in a table for those that vocabularies have, in a map for what a file may hold beside.
class ByToken {
 public:
  int64_t& operator[](int32_t token) {
    if (token >= in_table) return beyond_[token];
    if (static_cast<size_t>(token) >= table_.size()) table_.resize(static_cast<size_t>(token) + 1);
    return table_[static_cast<size_t>(token)];
  }
  // 0 for a token that was never named.
  int64_t at(int32_t token) const {
    if (static_cast<size_t>(token) < table_.size()) return table_[static_cast<size_t>(token)];
    const auto found = token < in_table ? beyond_.end() : beyond_.find(token);
    return found == beyond_.end() ? 0 : found->second;
  }
  // Those that are not 0, ascending.
  template <class Take>
  void each(Take take) const {
    for (size_t token = 0; token < table_.size(); ++token)
      if (table_[token] != 0) take(static_cast<int32_t>(token), table_[token]);
    for (const auto& [token, n] : beyond_) take(token, n);
  }

 private:
  static constexpr int32_t in_table = 1 << 20;
  std::vector<int64_t> table_;
  std::map<int32_t, int64_t> beyond_;
};

struct TokenTally {
  ByToken seen;
  int64_t tokens = 0;
  TokenTally& operator+=(const TokenTally& other) {
    other.seen.each([&](int32_t token, int64_t n) { seen[token] += n; });
    tokens += other.tokens;
    return *this;
  }
};

// Whether `a` stands before `b` among the rows of one expert: by pmi, which goes with count / seen there.
bool before(const VocabularyRow& a, const VocabularyRow& b) {
  const int64_t of_a = a.count * b.seen, of_b = b.count * a.seen;
  return of_a != of_b ? of_a > of_b : std::tuple(-a.count, a.token) < std::tuple(-b.count, b.token);
}

}  // namespace

double VocabularyRow::pmi() const {
  return std::log2(static_cast<double>(count) * static_cast<double>(tokens) /
                   (static_cast<double>(selected) * static_cast<double>(seen)));
}

std::vector<VocabularyRow> vocabulary(const TraceSet& set, const RouteOptions& options, VocabularyOf of,
                                      const VocabularyOptions& limits) {
  const char* table = of == VocabularyOf::input ? "vocabulary" : "vocabulary_next";
  const TokenTally tally = tally_blocks(set, options, BlockWalk{table}, TokenTally(),
                                        [&](TokenTally& mine, const SampleRoutes& routes, int64_t) {
                                          for (size_t i = 0; i < routes.tokens.size(); ++i)
                                            if (const int32_t token = token_of(routes, i, of); token >= 0) {
                                              ++mine.seen[token];
                                              ++mine.tokens;
                                            }
                                        });
  std::vector<int32_t> kept;
  ByToken number;  // 1 + place in `kept`
  tally.seen.each([&](int32_t token, int64_t n) {
    if (n < limits.min_count) return;
    kept.push_back(token);
    number[token] = static_cast<int64_t>(kept.size());
  });

  // Layers in groups, each counted by one task with a table of its own.
  const size_t n_layers = set.layers().size(), n_experts = static_cast<size_t>(set.n_experts());
  const size_t n_threads = static_cast<size_t>(threads_of(options));
  const size_t at_once = std::clamp<size_t>(most_cells / n_threads / std::max<size_t>(1, kept.size() * n_experts), 1,
                                            (n_layers + n_threads - 1) / n_threads);
  const size_t n_groups = (n_layers + at_once - 1) / at_once;
  std::vector<std::vector<VocabularyRow>> rows(n_layers);
  ThreadPool pool(static_cast<int>(n_threads));
  const std::vector<RouteBlock> blocks = route_blocks(set, options, 0);
  int64_t total = 0;
  for (const RouteBlock& block : blocks) total += (block.end - block.begin) * static_cast<int64_t>(n_groups);
  std::atomic<int64_t> done = 0;
  pool.parallel_for(static_cast<int64_t>(n_groups), [&](int64_t group, int thread) {
    const size_t begin = static_cast<size_t>(group) * at_once, end = std::min(begin + at_once, n_layers);
    const size_t width = (end - begin) * n_experts;
    std::vector<int32_t> counts(kept.size() * width);
    std::vector<int64_t> selected(width);
    SampleRoutes routes;
    for (const RouteBlock& block : blocks) {
      read_block(set, block, options, false, routes);
      for (size_t i = 0; i < routes.tokens.size(); ++i) {
        const int32_t token = token_of(routes, i, of);
        if (token < 0) continue;
        const int64_t found = number.at(token);
        int32_t* of_token = found > 0 ? counts.data() + static_cast<size_t>(found - 1) * width : nullptr;
        const int32_t* expert = routes.route(static_cast<int64_t>(i), static_cast<int64_t>(begin));
        for (size_t layer = begin; layer < end; ++layer)
          for (int64_t slot = 0; slot < routes.n_slots; ++slot, ++expert) {
            if (*expert < 0) continue;
            const size_t at = (layer - begin) * n_experts + static_cast<size_t>(*expert);
            ++selected[at];
            if (of_token) ++of_token[at];
          }
      }
      done += block.end - block.begin;
      if (thread == 0 && options.on_tokens) options.on_tokens(table, done, total);
    }
    for (size_t layer = begin; layer < end; ++layer)
      for (size_t expert = 0; expert < n_experts; ++expert) {
        const size_t at = (layer - begin) * n_experts + expert;
        std::vector<VocabularyRow> of_expert;
        for (size_t k = 0; k < kept.size(); ++k)
          if (const int32_t count = counts[k * width + at]; count > 0)
            of_expert.push_back({set.layers()[layer], static_cast<int32_t>(expert), kept[k], count,
                                 tally.seen.at(kept[k]), selected[at], tally.tokens});
        std::sort(of_expert.begin(), of_expert.end(), before);
        if (limits.top > 0 && of_expert.size() > static_cast<size_t>(limits.top))
          of_expert.resize(static_cast<size_t>(limits.top));
        rows[layer].insert(rows[layer].end(), of_expert.begin(), of_expert.end());
      }
  });
  std::vector<VocabularyRow> out;
  for (const std::vector<VocabularyRow>& of_layer : rows) out.insert(out.end(), of_layer.begin(), of_layer.end());
  return out;
}

std::map<int32_t, std::string> token_texts(const TraceSet& set) {
  std::map<int32_t, std::string> out;
  for (size_t t = 0; t < set.n_traces(); ++t) {
    const std::filesystem::path file = set.directory(t) / "texts.jsonl";
    if (!std::filesystem::exists(file)) continue;
    LineReader reader(file);
    for (std::string_view text; reader.next(text);) {
      if (trimmed(text).empty()) continue;
      const json::Value value = json::parse(text, reader.where());
      const json::Ref line(value, reader.where()), pieces = line.at("pieces"), tokens = line.at("tokens");
      if (pieces.value().is_null()) continue;
      for (size_t k = 0; k < std::min(tokens.length(), pieces.length()); ++k)
        out.emplace(static_cast<int32_t>(tokens[k].integer(0, INT32_MAX)), pieces[k].string());
    }
  }
  return out;
}

void write_vocabulary_csv(const std::filesystem::path& file, const std::vector<VocabularyRow>& rows,
                          const std::map<int32_t, std::string>& texts) {
  CsvWriter csv({"layer", "expert", "token", "text", "count", "share", "pmi"});
  for (const VocabularyRow& row : rows) {
    const auto text = texts.find(row.token);
    csv.cell(int64_t{row.layer}).cell(int64_t{row.expert}).cell(int64_t{row.token});
    csv.cell(text == texts.end() ? std::string_view() : std::string_view(text->second));
    csv.cell(row.count).cell(row.share()).cell(row.pmi()).end_row();
  }
  write_file_atomically(file, csv.text());
}

}  // namespace signalbox::eval
