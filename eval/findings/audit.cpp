#include "eval/findings/audit.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <span>

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
  const auto a_n = ranking.find_column("a1_n"), a_not = ranking.find_column("d1_n"), b_n = ranking.find_column("a2_n"),
             b_not = ranking.find_column("d2_n");
  std::vector<RankedExpert> out;
  for (size_t r = 0; r < ranking.n_rows(); ++r) {
    const auto optional = [&](const std::optional<size_t>& column) {
      return column ? ranking.value(r, *column).value_or(no_number) : no_number;
    };
    RankedExpert one{ranking.layer(r), ranking.expert(r), optional(rd), optional(lo),
                     optional(hi),     optional(p),       optional(q)};
    for (size_t i = 0; i < n_contributions; ++i)
      one.given[i] = optional(ranking.find_column("rd_" + std::string(contribution_names[i].column)));
    const auto share = [&](const std::optional<size_t>& selected, const std::optional<size_t>& not_selected) {
      const double n = optional(selected), all = n + optional(not_selected);
      return all > 0 ? n / all : no_number;
    };
    one.share_a = share(a_n, a_not);
    one.share_b = share(b_n, b_not);
    out.push_back(std::move(one));
  }
  return out;
}

std::vector<RankedExpert> by_magnitude(std::vector<RankedExpert> ranking) {
  std::sort(ranking.begin(), ranking.end(), [](const RankedExpert& a, const RankedExpert& b) {
    return ranks_before({a.rd, a.layer, a.expert}, {b.rd, b.layer, b.expert}, Ranking::Sign::both);
  });
  return ranking;
}

namespace {

// The audited interventions by place in the ranking, then layer and expert; the place of those that it does not have is
// its size.
std::map<std::pair<size_t, ExpertId>, size_t> audited_by_rank(const RunFindings& findings,
                                                              const std::vector<RankedExpert>& ordered) {
  std::map<ExpertId, size_t> place;
  for (size_t i = 0; i < ordered.size(); ++i) place[{ordered[i].layer, ordered[i].expert}] = i;
  std::map<std::pair<size_t, ExpertId>, size_t> audited;
  for (size_t i = 0; i < findings.interventions.size(); ++i)
    if (const auto& expert = findings.interventions[i].audited) {
      const auto found = place.find(*expert);
      audited[{found != place.end() ? found->second : ordered.size(), *expert}] = i;
    }
  return audited;
}

class AuditRows {
 public:
  AuditRows(const RunFindings& findings, const std::vector<RankedExpert>& ranking)
      : findings_(findings), ordered_(by_magnitude(ranking)), audited_(audited_by_rank(findings, ordered_)) {}

  void add(size_t metric, const RecordFindings& found, const std::string& condition) {
    for (const auto& [key, i] : audited_) {
      const auto& [at, id] = key;
      const RankedExpert expert = at < ordered_.size() ? ordered_[at] : RankedExpert{id.layer, id.expert};
      const Contrast& contrast = found.contrasts[i][metric];
      rows.push_back({expert, findings_.metrics[metric], contrast.difference, contrast.p, contrast.q, condition});
    }
  }

  std::vector<AuditRow> rows;

 private:
  const RunFindings& findings_;
  const std::vector<RankedExpert> ordered_;
  const std::map<std::pair<size_t, ExpertId>, size_t> audited_;
};

// The end of the rows from `begin` on that have its metric and condition.
size_t end_of(const std::vector<AuditRow>& rows, size_t begin) {
  size_t end = begin;
  while (end < rows.size() && rows[end].metric == rows[begin].metric && rows[end].condition == rows[begin].condition)
    ++end;
  return end;
}

// Of these rows, with value(row) as what ranks.
template <class Value>
AuditCorrelation correlation_of(std::span<const AuditRow> rows, Value value) {
  std::vector<double> ranked, ranked_size, effect, effect_size;
  for (const AuditRow& row : rows) {
    if (!std::isfinite(row.effect.value) || !std::isfinite(value(row))) continue;
    ranked.push_back(value(row));
    ranked_size.push_back(std::abs(value(row)));
    effect.push_back(row.effect.value);
    effect_size.push_back(std::abs(row.effect.value));
  }
  return {rows.front().metric, spearman(ranked_size, effect_size), spearman(ranked, effect),
          static_cast<int64_t>(ranked.size())};
}

constexpr size_t most_shown = 20;  // rows of a metric and condition in a terminal

}  // namespace

std::vector<AuditRow> audit_rows(const RunFindings& findings, const std::vector<RankedExpert>& ranking) {
  AuditRows out(findings, ranking);
  for (size_t m = 0; m < findings.metrics.size(); ++m) out.add(m, findings.all, "");
  return std::move(out.rows);
}

std::vector<AuditRow> audit_rows_by_condition(const RunFindings& findings, const std::vector<RankedExpert>& ranking) {
  AuditRows out(findings, ranking);
  for (size_t m = 0; m < findings.metrics.size(); ++m) {
    for (const ConditionFindings& one : findings.conditions) out.add(m, one.found, one.condition);
    out.add(m, findings.all, "");
  }
  return std::move(out.rows);
}

std::vector<AuditCorrelation> audit_correlations(const std::vector<AuditRow>& rows) {
  std::vector<AuditCorrelation> out;
  for (size_t begin = 0, end = 0; begin < rows.size(); begin = end) {
    end = end_of(rows, begin);
    out.push_back(
        correlation_of(std::span(rows).subspan(begin, end - begin), [](const AuditRow& row) { return row.expert.rd; }));
  }
  return out;
}

std::vector<RankingCorrelation> ranking_correlations(const RunFindings& findings,
                                                     const std::vector<AuditRanking>& rankings) {
  // [ranking] rows in the same order of metrics and conditions
  std::vector<std::vector<AuditRow>> all;
  for (const AuditRanking& ranking : rankings) all.push_back(audit_rows_by_condition(findings, ranking.experts));
  std::vector<RankingCorrelation> out;
  if (all.empty()) return out;
  for (size_t begin = 0, end = 0; begin < all[0].size(); begin = end) {
    end = end_of(all[0], begin);
    for (size_t r = 0; r < rankings.size(); ++r) {
      const auto rows = std::span<const AuditRow>(all[r]).subspan(begin, end - begin);
      const AuditRow& first = rows.front();
      const auto add = [&](std::string_view by, const auto& value) {
        if (std::none_of(rows.begin(), rows.end(), [&](const AuditRow& row) { return std::isfinite(value(row)); }))
          return;
        out.push_back({first.metric, first.condition, rankings[r].stage, std::string(by), correlation_of(rows, value)});
      };
      add("rd", [](const AuditRow& row) { return row.expert.rd; });
      for (size_t i = 0; i < n_contributions; ++i)
        add(contribution_names[i].name, [i](const AuditRow& row) { return row.expert.given[i]; });
    }
  }
  return out;
}

std::string audit_csv(const std::vector<AuditRow>& rows) {
  const auto some = [&](const auto& has) { return std::any_of(rows.begin(), rows.end(), has); };
  const bool by_condition = some([](const AuditRow& row) { return !row.condition.empty(); });
  std::vector<size_t> given;
  for (size_t i = 0; i < n_contributions; ++i)
    if (some([i](const AuditRow& row) { return !std::isnan(row.expert.given[i]); })) given.push_back(i);
  std::vector<std::string> names = {"layer", "expert", "rd", "q"};
  for (const size_t i : given) names.push_back("rd_" + std::string(contribution_names[i].column));
  names.push_back("metric");
  if (by_condition) names.push_back("condition");
  names.insert(names.end(), {"effect", "ci_lo", "ci_hi", "p", "q_effect", "n"});
  CsvWriter csv(std::vector<std::string_view>(names.begin(), names.end()));
  for (const AuditRow& row : rows) {
    csv.cell(int64_t{row.expert.layer}).cell(int64_t{row.expert.expert}).cell(row.expert.rd).cell(row.expert.q);
    for (const size_t i : given) csv.cell(row.expert.given[i]);
    csv.cell(row.metric);
    if (by_condition) csv.cell(row.condition);
    csv.cell(row.effect.value).cell(row.effect.lo).cell(row.effect.hi).cell(row.p).cell(row.q);
    csv.cell(row.effect.n).end_row();
  }
  return csv.text();
}

std::string audit_correlations_csv(const std::vector<RankingCorrelation>& rows) {
  CsvWriter csv({"metric", "condition", "stage", "by", "spearman", "spearman_signed", "n"});
  for (const RankingCorrelation& row : rows) {
    csv.cell(row.metric).cell(row.condition).cell(row.stage).cell(row.by);
    csv.cell(row.found.spearman.value_or(no_number)).cell(row.found.spearman_signed.value_or(no_number));
    csv.cell(row.found.n).end_row();
  }
  return csv.text();
}

std::string audit_text(const std::vector<AuditRow>& rows, const std::vector<RankingCorrelation>& correlations) {
  std::string text = "audit: each expert by itself, beside how much its use differs\n";
  char line[256];
  for (size_t begin = 0, end = 0; begin < rows.size(); begin = end) {
    end = end_of(rows, begin);
    const AuditRow& first = rows[begin];
    std::vector<AuditRow> shown(rows.begin() + static_cast<int64_t>(begin), rows.begin() + static_cast<int64_t>(end));
    if (shown.size() > most_shown) {
      std::stable_sort(shown.begin(), shown.end(), [](const AuditRow& a, const AuditRow& b) {
        const auto size = [](const AuditRow& row) {
          return std::isfinite(row.effect.value) ? std::abs(row.effect.value) : -1;
        };
        return size(a) > size(b);
      });
      shown.resize(most_shown);
    }
    text += "\n" + first.metric;
    if (!first.condition.empty())
      text += ", " + first.condition;
    else if (std::any_of(rows.begin(), rows.end(), [](const AuditRow& row) { return !row.condition.empty(); }))
      text += ", all records";
    if (end - begin > shown.size())
      text += ": the " + std::to_string(shown.size()) + " largest effects of " + std::to_string(end - begin);
    text += "\nlayer  expert        rd         q      effect [95 % CI]                 q\n";
    for (const AuditRow& row : shown) {
      const int decimals = decimals_for(std::abs(row.effect.value));
      std::snprintf(line, sizeof line, "%5d  %6d  %8s  %8s  %10s %-20s %8s\n", row.expert.layer, row.expert.expert,
                    format_difference(row.expert.rd, 4).c_str(), format_p(row.expert.q).c_str(),
                    format_difference(row.effect.value, decimals).c_str(),
                    format_interval(row.effect.lo, row.effect.hi, decimals, true).c_str(), format_p(row.q).c_str());
      text += line;
    }
    for (const RankingCorrelation& one : correlations) {
      if (one.metric != first.metric || one.condition != first.condition || !one.found.spearman) continue;
      const bool several = std::any_of(correlations.begin(), correlations.end(),
                                       [&](const RankingCorrelation& other) { return other.stage != one.stage; });
      text += "rank correlation with |effect|: |" + (one.by == "rd" ? one.by : "rd, " + one.by) + "|";
      if (several) text += " of " + one.stage;
      std::snprintf(line, sizeof line, " %+.2f\n", *one.found.spearman);
      text += line;
    }
  }
  return text;
}

namespace {

// "audit" of the run's spec, as resolved; null where nobody knows.
json::Value resolved_audit(const std::filesystem::path& dir) {
  const auto manifest = Manifest::read(dir);
  const json::Value* value = manifest ? &manifest->identity : nullptr;
  for (const char* key : {"spec", "audit"})
    if (value) value = value->type() == json::Type::object ? value->find(key) : nullptr;
  return value ? *value : json::Value();
}

// Stages of detection that have a ranking, by name.
std::vector<std::string> ranked_stages(const std::filesystem::path& dir) {
  namespace fs = std::filesystem;
  std::vector<std::string> stages;
  const fs::path root = dir / "detect";
  if (!fs::is_directory(root)) return stages;
  for (const auto& entry : fs::recursive_directory_iterator(root))
    if (entry.path().filename() == "rd.csv") stages.push_back(fs::relative(entry.path().parent_path(), root).string());
  std::sort(stages.begin(), stages.end());
  return stages;
}

}  // namespace

std::vector<RankedExpert> ranking_of_audit(const std::filesystem::path& dir) {
  namespace fs = std::filesystem;
  if (fs::exists(dir / "audit" / "rd.csv")) return read_ranking(dir / "audit" / "rd.csv");
  const std::string from = ranking_text(resolved_audit(dir), "from");
  if (from.starts_with(detect_prefix))
    return read_ranking(dir / "detect" / from.substr(detect_prefix.size()) / "rd.csv");
  const std::vector<std::string> stages = ranked_stages(dir);
  return stages.size() == 1 ? read_ranking(dir / "detect" / stages[0] / "rd.csv") : std::vector<RankedExpert>();
}

std::vector<AuditRanking> rankings_beside_audit(const std::filesystem::path& dir) {
  std::vector<AuditRanking> out;
  if (std::filesystem::exists(dir / "audit" / "rd.csv")) out.push_back({"", read_ranking(dir / "audit" / "rd.csv")});
  for (const std::string& stage : ranked_stages(dir))
    out.push_back({stage, read_ranking(dir / "detect" / stage / "rd.csv")});
  return out;
}

void write_audit(const std::filesystem::path& dir, const std::filesystem::path& out, RunFindings& findings) {
  const std::vector<RankedExpert> ranking = ranking_of_audit(dir);
  const std::vector<AuditRow> rows = audit_rows(findings, ranking);
  if (rows.empty()) return;
  findings.audit = audit_correlations(rows);
  write_file_atomically(out / "audit.csv", audit_csv(audit_rows_by_condition(findings, ranking)));
  const std::vector<RankingCorrelation> correlations = ranking_correlations(findings, rankings_beside_audit(dir));
  if (!correlations.empty())
    write_file_atomically(out / "audit_correlations.csv", audit_correlations_csv(correlations));
}

std::string audit_text(const std::filesystem::path& dir, const RunFindings& findings) {
  return audit_text(audit_rows_by_condition(findings, ranking_of_audit(dir)),
                    ranking_correlations(findings, rankings_beside_audit(dir)));
}

}  // namespace signalbox::eval
