#include "eval/lens/lens_files.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <map>

#include "base/csv.h"
#include "base/display_width.h"
#include "base/error.h"
#include "base/files.h"
#include "base/text_table.h"
#include "eval/routing/recording_identity.h"
#include "eval/store/facts.h"
#include "probes/edit_spec.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;
using Kind = LensEntry::Kind;

constexpr size_t flush_bytes = size_t{4} << 20;
constexpr double bytes_of_row = 75;  // of lens.csv, about

std::string gigabytes(double bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f GB", bytes / 1e9);
  return text;
}

std::string piece_of(const Tokenizer* tokenizer, int32_t token) { return tokenizer ? tokenizer->piece(token) : ""; }

// How a token is called in a table: its piece, or its number.
std::string name_of(const Tokenizer* tokenizer, int32_t token) {
  constexpr size_t most_columns = 12;
  const std::string piece = piece_of(tokenizer, token);
  return piece.empty() ? std::to_string(token) : cut_in_the_middle(piece, most_columns);
}

std::string probability(double logprob) {
  const double p = std::exp(logprob);
  char text[32];
  std::snprintf(text, sizeof text, "%.3f", p);
  return p < 0.0005 ? "<.001" : text;
}

std::string with_sign(double share) {
  char text[32];
  std::snprintf(text, sizeof text, "%+.3f", share);
  return text;
}

std::string positions_text(const TokenChoice& choice) {
  if (choice.last) return "last";
  const bool to_end = choice.end == std::numeric_limits<int64_t>::max();
  if (choice.begin == 0 && to_end) return "all";
  return std::to_string(choice.begin) + ":" + (to_end ? "" : std::to_string(choice.end));
}

// The readings of one token, kept beyond the visit.
struct KeptToken {
  std::vector<int64_t> experts;
  std::vector<TokenReading> readings;
};

KeptToken last_token(LensRows& rows, const ChosenTokens& chosen, int64_t record) {
  KeptToken kept;
  rows.read_all([&](const LensToken& token) {
    if (token.record != record || token.position != chosen.last_of(record)) return;
    kept.experts.assign(token.experts.begin(), token.experts.end());
    kept.readings.assign(token.readings.begin(), token.readings.end());
  });
  return kept;
}

// Each layer's stream, as probabilities.
std::string stream_text(const LensRows& rows, const KeptToken& token, const Tokenizer* tokenizer, int width) {
  constexpr int columns_of_token = 20, columns_of_layer = 7;
  const bool named = !rows.options().tokens.empty();
  const auto n_each = static_cast<size_t>(rows.n_read());
  const size_t fitting =
      width > 0 ? static_cast<size_t>(std::max(1, (width - columns_of_layer) / columns_of_token)) : 5;
  const size_t n_shown = std::min(n_each, named ? size_t{8} : fitting);
  std::vector<TextTable::Column> columns = {{"layer", true, true}};
  for (size_t i = 0; i < n_shown; ++i)
    columns.push_back({named ? name_of(tokenizer, rows.options().tokens[i]) : i == 0 ? "most likely" : "", named});
  TextTable table(std::move(columns));
  for (size_t e = 0; e < rows.entries().size(); ++e) {
    if (rows.entries()[e].share()) continue;
    std::vector<std::string> cells = {std::to_string(rows.entries()[e].layer)};
    for (size_t i = 0; i < n_shown; ++i) {
      const TokenReading& one = token.readings[e * n_each + i];
      cells.push_back(named ? probability(one.logprob) + " (" + std::to_string(one.rank) + ".)"
                            : probability(one.logprob) + " " + name_of(tokenizer, one.token));
    }
    table.add(std::move(cells));
  }
  return table.text(width);
}

// What each layer's parts give to the logit of one of the given tokens.
std::string shares_text(const LensRows& rows, const KeptToken& token, size_t which, int width) {
  constexpr Kind shown[] = {Kind::attn_out, Kind::mlp_out, Kind::moe_routed, Kind::shared_out, Kind::edit};
  const auto n_each = static_cast<size_t>(rows.n_read());
  std::map<int32_t, std::map<Kind, double>> shares;
  std::map<int32_t, std::pair<double, int64_t>> best;  // of a layer's experts: the largest share, and whose it is
  std::map<Kind, bool> there;
  double sum = 0;
  for (size_t e = 0; e < rows.entries().size(); ++e) {
    const LensEntry& entry = rows.entries()[e];
    const double share = token.readings[e * n_each + which].logit;
    if (!entry.share()) continue;
    if (entry.kind == Kind::expert) {
      if (token.experts[e] < 0) continue;
      const auto [at, is_new] = best.emplace(entry.layer, std::pair(share, token.experts[e]));
      if (!is_new && share > at->second.first) at->second = {share, token.experts[e]};
      continue;
    }
    shares[entry.layer][entry.kind] = share;
    there[entry.kind] = true;
    sum += share;
  }
  std::vector<TextTable::Column> columns = {{"layer", true, true}};
  for (const Kind kind : shown)
    if (there.count(kind)) columns.push_back({lens_point_name(kind, 0)});
  if (!best.empty()) columns.push_back({"most by expert"});
  TextTable table(columns);
  for (const auto& [layer, of_layer] : shares) {
    if (layer < 0) continue;
    std::vector<std::string> cells = {std::to_string(layer)};
    for (const Kind kind : shown)
      if (there.count(kind)) cells.push_back(of_layer.count(kind) ? with_sign(of_layer.at(kind)) : "");
    if (!best.empty())
      cells.push_back(
          best.count(layer) ? with_sign(best.at(layer).first) + " by " + std::to_string(best.at(layer).second) : "");
    table.add(std::move(cells));
  }
  return table.text(width) + "embed " + with_sign(shares.at(-1).at(Kind::embed)) + ", sum of all " + with_sign(sum) +
         "\n";
}

}  // namespace

json::Value lens_summary(const LensWork& work) {
  const Session& session = work.session;
  RecordsHash hash;
  for (const Record& record : work.records) hash.add(record);
  json::Value out = json::Value::object();
  out.set("schema", work.schema)
      .set("model", session.label)
      .set("model_hash", session.model_hash)
      .set("tokenizer", session.tokenizer ? json::Value(session.tokenizer->hash()) : json::Value())
      .set("data_hash", hash.hex())
      .set("edits", work.plan ? work.plan->source() : json::Value())
      .set("edit_files",
           work.plan
               ? file_hashes(files_of_edits(json::Ref(work.plan->source(), "edits"), work.edits_dir), work.edits_dir)
               : json::Value())
      .set("seed", work.seed)
      .set("numerics", session.numerics)
      .set("isa", session.backend->isa())
      .set("device", session.backend->name())
      .set("signalbox_version", SIGNALBOX_VERSION)
      .set("layers", layer_ranges(work.layers))
      .set("positions", positions_text(work.choice))
      .set("span", work.choice.span.empty() ? json::Value() : json::Value(work.choice.span))
      .set("n_records", work.chosen.n_records())
      .set("n_records_without_tokens", work.chosen.n_records_without())
      .set("n_tokens", work.chosen.n_tokens());
  return out;
}

double lens_csv_bytes(const LensRows& rows) { return static_cast<double>(rows.most_rows()) * bytes_of_row; }

void require_room(const LensRows& rows, const ChosenTokens& chosen, const fs::path& dir) {
  std::error_code failed;
  const fs::space_info space = fs::space(dir, failed);
  if (failed) return;  // a file system that does not tell
  const double needed =
      static_cast<double>(chosen.n_tokens()) * static_cast<double>(rows.token_bytes()) + lens_csv_bytes(rows);
  if (needed > static_cast<double>(space.available))
    throw Error(dir.string(), "expected " + gigabytes(needed) + " of room for " + std::to_string(rows.most_rows()) +
                                  " rows, found " + gigabytes(static_cast<double>(space.available)) +
                                  ": choose with --layers, --positions, --span or --top");
}

int64_t write_lens_csv(LensRows& rows, const std::vector<Record>& records, const Tokenizer* tokenizer,
                       const fs::path& file, const std::function<void(int64_t)>& on_progress) {
  CsvWriter csv({"id", "position", "layer", "point", "rank", "token", "text", "logit", "logprob"});
  AtomicFile out(file);
  const auto n_each = static_cast<size_t>(rows.n_read());
  int64_t n_rows = 0, n_tokens = 0;
  rows.read_all([&](const LensToken& token) {
    for (size_t e = 0; e < rows.entries().size(); ++e) {
      const LensEntry& entry = rows.entries()[e];
      if (entry.kind == Kind::expert && token.experts[e] < 0) continue;
      const std::string point = lens_point_name(entry.kind, token.experts[e]);
      for (const TokenReading& one : token.readings.subspan(e * n_each, n_each)) {
        csv.cell(records[static_cast<size_t>(token.record)].id).cell(token.position);
        entry.layer < 0 ? csv.cell(std::string_view()) : csv.cell(int64_t{entry.layer});
        csv.cell(point).cell(int64_t{one.rank}).cell(int64_t{one.token}).cell(piece_of(tokenizer, one.token));
        csv.cell(one.logit).cell(one.logprob).end_row();
        ++n_rows;
      }
    }
    if (csv.text().size() >= flush_bytes) out.write(csv.take_text());
    if (on_progress) on_progress(++n_tokens);
  });
  out.write(csv.take_text());
  out.commit();
  return n_rows;
}

std::string lens_text(LensRows& rows, const ChosenTokens& chosen, int64_t record, const Tokenizer* tokenizer,
                      int width) {
  const KeptToken token = last_token(rows, chosen, record);
  std::string out = stream_text(rows, token, tokenizer, width);
  if (!rows.options().parts) return out;
  constexpr size_t most_tables = 4;
  const std::vector<int32_t>& tokens = rows.options().tokens;
  for (size_t i = 0; i < std::min(tokens.size(), most_tables); ++i)
    out += "\nShares in the logit of " + name_of(tokenizer, tokens[i]) + "\n" + shares_text(rows, token, i, width);
  return out;
}

}  // namespace signalbox::eval
