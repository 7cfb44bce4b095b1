#include "eval/lens/vocabulary_files.h"

#include <algorithm>
#include <cstdio>
#include <tuple>

#include "base/csv.h"
#include "base/display_width.h"
#include "base/files.h"
#include "base/text_table.h"

namespace signalbox::eval {

namespace {

std::string text_of_token(const Tokenizer* tokenizer, int32_t token) {
  return tokenizer ? tokenizer->piece(token) : "";
}

}  // namespace

void write_expert_vocabulary(const ExpertVocabulary& found, const Tokenizer* tokenizer,
                             const std::filesystem::path& dir) {
  CsvWriter experts({"layer", "expert", "rank", "token", "text", "mean", "n"});
  for (const ExpertToken& row : found.experts) {
    experts.cell(int64_t{row.layer}).cell(int64_t{row.expert}).cell(int64_t{row.token.rank});
    experts.cell(int64_t{row.token.token}).cell(text_of_token(tokenizer, row.token.token));
    experts.cell(row.token.logit).cell(row.n).end_row();
  }
  write_file_atomically(dir / "expert_vocabulary.csv", experts.text());
  CsvWriter tokens({"token", "text", "rank", "layer", "expert", "mean", "n"});
  AtomicFile file(dir / "token_experts.csv");
  for (const TokenExpert& row : found.tokens) {
    tokens.cell(int64_t{row.token}).cell(text_of_token(tokenizer, row.token)).cell(int64_t{row.rank});
    tokens.cell(int64_t{row.layer}).cell(int64_t{row.expert}).cell(row.mean).cell(row.n).end_row();
    if (tokens.text().size() >= size_t{4} << 20) file.write(tokens.take_text());
  }
  file.write(tokens.take_text());
  file.commit();
}

std::string expert_vocabulary_text(const ExpertVocabulary& found, const Tokenizer* tokenizer, size_t most, int width) {
  constexpr size_t most_tokens = 5, columns_of_piece = 12;
  // Experts by what they give to the first of their rows.
  std::vector<size_t> first;
  for (size_t i = 0; i < found.experts.size(); ++i)
    if (i == 0 || std::tie(found.experts[i].layer, found.experts[i].expert) !=
                      std::tie(found.experts[i - 1].layer, found.experts[i - 1].expert))
      first.push_back(i);
  const size_t n_each = first.size() > 1 ? first[1] : found.experts.size();
  std::stable_sort(first.begin(), first.end(),
                   [&](size_t a, size_t b) { return found.experts[a].token.logit > found.experts[b].token.logit; });
  if (first.size() > most) first.resize(most);
  TextTable table({{"layer", true, true}, {"expert", true, true}, {"tokens"}, {"raises", false}});
  for (const size_t i : first) {
    std::string raised;
    for (size_t j = i; j < i + std::min(n_each, most_tokens); ++j) {
      char mean[32];
      std::snprintf(mean, sizeof mean, " %+.2f", found.experts[j].token.logit);
      const std::string piece = text_of_token(tokenizer, found.experts[j].token.token);
      const std::string next =
          (piece.empty() ? std::to_string(found.experts[j].token.token) : cut_in_the_middle(piece, columns_of_piece)) +
          mean;
      constexpr size_t other_columns = 24;
      if (width > 0 && display_width(raised) + display_width(next) + 2 + other_columns > static_cast<size_t>(width))
        break;
      raised += (raised.empty() ? "" : ", ") + next;
    }
    table.add({std::to_string(found.experts[i].layer), std::to_string(found.experts[i].expert),
               std::to_string(found.experts[i].n), raised});
  }
  return table.text(width);
}

}  // namespace signalbox::eval
