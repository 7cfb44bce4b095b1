#include "eval/findings/audit.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>

#include "base/csv.h"
#include "base/files.h"
#include "eval/findings/format.h"
#include "eval/statistics/resampling.h"
#include "eval/store/manifest.h"
#include "probes/ranking.h"

namespace signalbox::eval {

std::vector<RankedExpert> read_ranking(const std::filesystem::path& file) {
  const RankingFile ranking(file);
  const size_t rd = ranking.column("rd");
  const auto lo = ranking.find_column("ci_lo"), hi = ranking.find_column("ci_hi"), p = ranking.find_column("p"),
             q = ranking.find_column("q");
  std::vector<RankedExpert> out;
  for (size_t r = 0; r < ranking.n_rows(); ++r) {
    const auto optional = [&](const std::optional<size_t>& column) {
      return column ? ranking.value(r, *column).value_or(no_number) : no_number;
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

std::vector<AuditRow> audit_rows(const RunFindings& findings, const std::vector<RankedExpert>& ranking) {
  const std::vector<RankedExpert> ordered = by_magnitude(ranking);
  std::map<ExpertId, size_t> place;
  for (size_t i = 0; i < ordered.size(); ++i) place[{ordered[i].layer, ordered[i].expert}] = i;
  // The audited interventions in the order of their experts: by place in the ranking, then layer and expert.
  std::map<std::pair<size_t, ExpertId>, size_t> audited;
  for (size_t i = 0; i < findings.interventions.size(); ++i)
    if (const auto& expert = findings.interventions[i].audited) {
      const auto found = place.find(*expert);
      audited[{found != place.end() ? found->second : ordered.size(), *expert}] = i;
    }
  std::vector<AuditRow> out;
  for (size_t m = 0; m < findings.metrics.size(); ++m)
    for (const auto& [key, i] : audited) {
      const auto& [at, id] = key;
      const RankedExpert expert = at < ordered.size() ? ordered[at] : RankedExpert{id.layer, id.expert};
      const Contrast& contrast = findings.all.contrasts[i][m];
      out.push_back({expert, findings.metrics[m], contrast.difference, contrast.p, contrast.q});
    }
  return out;
}

std::vector<AuditCorrelation> audit_correlations(const std::vector<AuditRow>& rows) {
  std::vector<AuditCorrelation> out;
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
    out.push_back(
        {rows[begin].metric, spearman(rd_size, effect_size), spearman(rd, effect), static_cast<int64_t>(rd.size())});
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

std::string audit_text(const std::vector<AuditRow>& rows) {
  std::string text = "audit: each expert by itself, beside how much its use differs\n";
  char line[256];
  size_t begin = 0;
  for (const AuditCorrelation& correlation : audit_correlations(rows)) {
    const std::string& metric = correlation.metric;
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
    if (correlation.spearman) {
      std::snprintf(line, sizeof line, "%24s  rank correlation of |rd| with |effect|: %+.2f\n", "",
                    *correlation.spearman);
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
    if (value && value->is_string() && value->string().starts_with(detect_prefix))
      return read_ranking(dir / "detect" / value->string().substr(detect_prefix.size()) / "rd.csv");
  }
  return stages.size() == 1 ? read_ranking(stages[0] / "rd.csv") : std::vector<RankedExpert>();
}

void write_audit(const std::filesystem::path& dir, const std::filesystem::path& out, RunFindings& findings) {
  const std::vector<AuditRow> rows = audit_rows(findings, ranking_of_audit(dir));
  if (rows.empty()) return;
  findings.audit = audit_correlations(rows);
  write_file_atomically(out / "audit.csv", audit_csv(rows));
}

}  // namespace signalbox::eval
