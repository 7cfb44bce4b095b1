#include "eval/routing/specialists.h"

#include "base/csv.h"
#include "base/files.h"
#include "eval/routing/count_by_domain.h"
#include "eval/statistics/resampling.h"

namespace signalbox::eval {

namespace {

ExpertLabel label_of(const DomainRatio& found, double q) {
  if (q <= specialist_q && found.ci_lo > 1 && found.ratio >= specialist_ratio) return ExpertLabel::specialist;
  if (found.by_domain.size() < 2) return ExpertLabel::undecided;
  for (const Interval& one : found.by_domain)
    if (!(one.lo >= 1 / generalist_margin && one.hi <= generalist_margin)) return ExpertLabel::undecided;
  return ExpertLabel::generalist;
}

}  // namespace

const char* label_name(ExpertLabel label) {
  switch (label) {
    case ExpertLabel::specialist: return "specialist";
    case ExpertLabel::generalist: return "generalist";
    case ExpertLabel::undecided: break;
  }
  return "undecided";
}

std::vector<Specialist> specialists(const TraceSet& set, const RouteOptions& options) {
  const size_t n_experts = static_cast<size_t>(set.n_experts());
  const DomainCounts counts =
      count_by_domain(set, options, set.n_rows(), [&](int32_t* mine, const SampleRoutes& routes) {
        const size_t n_slots = static_cast<size_t>(routes.n_slots), width = routes.ids.size() / routes.tokens.size();
        for (size_t i = 0; i < routes.ids.size(); ++i)
          if (routes.ids[i] >= 0) ++mine[i % width / n_slots * n_experts + static_cast<size_t>(routes.ids[i])];
      });
  std::vector<DomainRatio> found =
      domain_ratios(counts, options.seed, options.resamples, threads_of(options), [&](int64_t done, int64_t total) {
        if (options.on_progress) options.on_progress("specialists", done, total);
      });
  std::vector<double> p;
  for (const DomainRatio& one : found) p.push_back(one.p);
  const std::vector<double> q = benjamini_hochberg(p);
  std::vector<Specialist> out;
  for (size_t row = 0; row < found.size(); ++row) {
    Specialist one;
    one.layer = set.layers()[row / n_experts];
    one.expert = static_cast<int32_t>(row % n_experts);
    one.q = q[row];
    one.label = label_of(found[row], q[row]);
    if (found[row].ratio >= 0) one.domain = counts.domains[found[row].domain];
    one.found = std::move(found[row]);
    out.push_back(std::move(one));
  }
  return out;
}

void write_specialists_csv(const std::filesystem::path& file, const std::vector<Specialist>& rows) {
  CsvWriter csv({"layer", "expert", "label", "domain", "rate_ratio", "ci_lo", "ci_hi", "p", "q", "effective_domains"});
  for (const Specialist& row : rows) {
    csv.cell(int64_t{row.layer}).cell(int64_t{row.expert}).cell(label_name(row.label)).cell(row.domain);
    csv.cell(row.found.ratio).cell(row.found.ci_lo).cell(row.found.ci_hi).cell(row.found.p).cell(row.q);
    csv.cell(row.found.effective_domains).end_row();
  }
  write_file_atomically(file, csv.text());
}

}  // namespace signalbox::eval
