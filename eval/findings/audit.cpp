#include "eval/findings/audit.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <map>
#include <tuple>

#include "base/csv_writer.h"
#include "base/error.h"
#include "base/files.h"
#include "eval/findings/format.h"
#include "eval/statistics/resampling.h"
#include "eval/store/manifest.h"
#include "probes/ranking.h"

namespace signalbox {

namespace {

// "audit/L3E5": layer and expert.
std::optional<std::pair<int32_t, int32_t>> audited(std::string_view name) {
  constexpr std::string_view prefix = "audit/L";
  if (!name.starts_with(prefix)) return std::nullopt;
  name.remove_prefix(prefix.size());
  int32_t layer = 0, expert = 0;
  const auto [after_layer, bad_layer] = std::from_chars(name.data(), name.data() + name.size(), layer);
  if (bad_layer != std::errc() || after_layer == name.data() + name.size() || *after_layer != 'E') return std::nullopt;
  const auto [end, bad_expert] = std::from_chars(after_layer + 1, name.data() + name.size(), expert);
  if (bad_expert != std::errc() || end != name.data() + name.size()) return std::nullopt;
  return std::pair(layer, expert);
}

json::Value correlation(const std::vector<double>& x, const std::vector<double>& y) {
  const std::optional<double> rho = spearman(x, y);
  return rho ? json::Value(*rho) : json::Value(nullptr);
}

}  // namespace

std::vector<RankedExpert> read_ranking(const std::filesystem::path& file) {
  const RankingFile ranking(file);
  const size_t rd = ranking.column("rd");
  const auto lo = ranking.find_column("ci_lo"), hi = ranking.find_column("ci_hi"), p = ranking.find_column("p"),
             q = ranking.find_column("q");
  std::vector<RankedExpert> out;
  for (size_t r = 0; r < ranking.n_rows(); ++r) {
    const auto optional = [&](const std::optional<size_t>& column) {
      return column ? ranking.value(r, *column).value_or(RankedExpert::undefined) : RankedExpert::undefined;
    };
    out.push_back(
        {ranking.layer(r), ranking.expert(r), optional(rd), optional(lo), optional(hi), optional(p), optional(q)});
  }
  return out;
}

std::vector<RankedExpert> by_magnitude(std::vector<RankedExpert> ranking) {
  std::sort(ranking.begin(), ranking.end(), [](const RankedExpert& a, const RankedExpert& b) {
    return ranks_before({a.rd, a.layer, a.expert}, {b.rd, b.layer, b.expert}, Ranking::Sign::both);
  });
  return ranking;
}

std::vector<AuditRow> audit_rows(const json::Value& metrics, const std::vector<RankedExpert>& ranking) {
  const std::vector<RankedExpert> ordered = by_magnitude(ranking);
  std::map<std::pair<int32_t, int32_t>, size_t> place;
  for (size_t i = 0; i < ordered.size(); ++i) place[{ordered[i].layer, ordered[i].expert}] = i;
  // By metric, then place in the ranking, then layer and expert.
  std::map<std::tuple<size_t, size_t, int32_t, int32_t>, AuditRow> sorted;
  std::map<std::string, size_t> metric_order;
  for (const ResultRow& row : result_rows(metrics, RowChoice::all)) {
    const auto which = audited(row.intervention);
    if (!which) continue;
    const auto found = place.find(*which);
    RankedExpert expert{which->first, which->second};
    if (found != place.end()) expert = ordered[found->second];
    const size_t at = found != place.end() ? found->second : ordered.size();
    const size_t metric = metric_order.emplace(row.metric, metric_order.size()).first->second;
    sorted[{metric, at, which->first, which->second}] = {expert, row.metric, row.difference, row.p, row.q};
  }
  std::vector<AuditRow> out;
  for (auto& [key, row] : sorted) out.push_back(std::move(row));
  return out;
}

json::Value audit_json(const std::vector<AuditRow>& rows) {
  json::Value out = json::Value::object();
  for (size_t begin = 0; begin < rows.size();) {
    size_t end = begin;
    std::vector<double> rd, rd_size, effect, effect_size;
    for (; end < rows.size() && rows[end].metric == rows[begin].metric; ++end) {
      if (!std::isfinite(rows[end].effect.value) || !std::isfinite(rows[end].expert.rd)) continue;
      rd.push_back(rows[end].expert.rd);
      rd_size.push_back(std::abs(rows[end].expert.rd));
      effect.push_back(rows[end].effect.value);
      effect_size.push_back(std::abs(rows[end].effect.value));
    }
    json::Value one = json::Value::object();
    one.append_member("spearman", correlation(rd_size, effect_size));
    one.append_member("spearman_signed", correlation(rd, effect));
    one.append_member("n", static_cast<int64_t>(rd.size()));
    out.append_member(rows[begin].metric, std::move(one));
    begin = end;
  }
  return out;
}

std::string audit_csv(const std::vector<AuditRow>& rows) {
  CsvWriter csv({"layer", "expert", "rd", "q", "metric", "effect", "ci_lo", "ci_hi", "p", "q_effect", "n"});
  for (const AuditRow& row : rows) {
    csv.cell(int64_t{row.expert.layer}).cell(int64_t{row.expert.expert}).cell(row.expert.rd).cell(row.expert.q);
    csv.cell(row.metric).cell(row.effect.value).cell(row.effect.lo).cell(row.effect.hi).cell(row.p).cell(row.q);
    csv.cell(row.effect.n).end_row();
  }
  return csv.text();
}

std::string audit_text(const std::vector<AuditRow>& rows, const json::Value& metrics) {
  std::string text = "audit: each expert by itself, beside how much its use differs\n";
  char line[256];
  for (size_t begin = 0; begin < rows.size();) {
    const std::string& metric = rows[begin].metric;
    std::snprintf(line, sizeof line, "\n%-24s  layer  expert        rd         q      effect [95 %% CI]           q\n",
                  metric.c_str());
    text += line;
    for (; begin < rows.size() && rows[begin].metric == metric; ++begin) {
      const AuditRow& row = rows[begin];
      const int decimals = decimals_for(std::abs(row.effect.value));
      std::snprintf(line, sizeof line, "%24s  %5d  %6d  %8s  %8s  %10s %-18s %8s\n", "", row.expert.layer,
                    row.expert.expert, format_difference(row.expert.rd, 4).c_str(), format_p(row.expert.q).c_str(),
                    format_difference(row.effect.value, decimals).c_str(),
                    format_interval(row.effect.lo, row.effect.hi, decimals, true).c_str(), format_p(row.q).c_str());
      text += line;
    }
    const json::Value* one = metrics.find("audit") ? metrics.find("audit")->find(metric) : nullptr;
    const json::Value* spearman = one ? one->find("spearman") : nullptr;
    if (spearman && spearman->is_number()) {
      std::snprintf(line, sizeof line, "%24s  rank correlation of |rd| with |effect|: %+.2f\n", "", spearman->real());
      text += line;
    }
  }
  return text;
}

std::vector<RankedExpert> ranking_of_audit(const std::filesystem::path& dir) {
  namespace fs = std::filesystem;
  if (fs::exists(dir / "audit" / "rd.csv")) return read_ranking(dir / "audit" / "rd.csv");
  std::vector<fs::path> stages;
  if (fs::is_directory(dir / "detect"))
    for (const auto& entry : fs::directory_iterator(dir / "detect"))
      if (fs::exists(entry.path() / "rd.csv")) stages.push_back(entry.path());
  if (const auto manifest = Manifest::read(dir)) {
    const json::Value* value = &manifest->identity;
    for (const char* key : {"spec", "audit", "experts", "from"})
      if (value) value = value->type() == json::Type::object ? value->find(key) : nullptr;
    const std::string_view prefix = "detect:";
    if (value && value->is_string() && value->string().starts_with(prefix))
      return read_ranking(dir / "detect" / value->string().substr(prefix.size()) / "rd.csv");
  }
  return stages.size() == 1 ? read_ranking(stages[0] / "rd.csv") : std::vector<RankedExpert>();
}

void add_audit(const std::filesystem::path& dir, json::Value& metrics) {
  const std::vector<AuditRow> rows = audit_rows(metrics, ranking_of_audit(dir));
  metrics.set("audit", audit_json(rows));
  write_file_atomically(dir / "audit.csv", audit_csv(rows));
}

}  // namespace signalbox
