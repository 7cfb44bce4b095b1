#include "eval/findings/domain_findings.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <optional>

#include "base/csv.h"
#include "base/no_number.h"
#include "eval/findings/format.h"
#include "probes/ranking.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

constexpr double level = 0.05;  // of q

// A table whose empty cells are undefined numbers.
class Columns {
 public:
  explicit Columns(const fs::path& file) : table_(CsvTable::read(file)) {}
  size_t n_rows() const { return table_.n_rows(); }
  double number(size_t row, const char* column) const {
    const size_t c = table_.column(column);
    return table_.text(row, c).empty() ? no_number : table_.number(row, c);
  }
  int64_t integer(size_t row, const char* column) const { return table_.integer(row, table_.column(column)); }
  const std::string& text(size_t row, const char* column) const { return table_.text(row, table_.column(column)); }
  // NaN is not below anything.
  int64_t count_below(const char* column, double bound) const {
    int64_t n = 0;
    for (size_t row = 0; row < n_rows(); ++row) n += number(row, column) < bound;
    return n;
  }
  // The row with the largest value; none where all are undefined.
  template <class Value>
  std::optional<size_t> largest(Value value) const {
    std::optional<size_t> best;
    for (size_t row = 0; row < n_rows(); ++row)
      if (std::isfinite(value(row)) && (!best || value(row) > value(*best))) best = row;
    return best;
  }

 private:
  CsvTable table_;
};

std::string percent(double share) { return format_value(100 * share, 1) + " %"; }

std::string part_of(int64_t n, size_t of) { return std::to_string(n) + " of " + std::to_string(of); }

// ---- Which layers tell domains apart

void tell_separation(const Columns& layers, size_t n_domains, DomainFindings& out) {
  if (layers.n_rows() == 0 || n_domains < 2) {
    out.sentences.push_back("Domains: there are fewer than two, so there is nothing to compare.");
    return;
  }
  const auto v = [&](size_t row) { return layers.number(row, "cramers_v"); };
  const int64_t apart = layers.count_below("q", level);
  std::string text = "Domains use different experts at " + part_of(apart, layers.n_rows()) +
                     " layers (q < 0.05, domains permuted over the prompts)";
  const auto shown = [&](size_t row) {
    return "layer " + layers.text(row, "layer") + " (Cramér's V " + format_value(v(row), 2) + ", permutation p " +
           format_p(layers.number(row, "p_permutation")) + ")";
  };
  const auto most = layers.largest(v), least = layers.largest([&](size_t row) { return -v(row); });
  if (most) text += ": most at " + shown(*most);
  if (least && least != most) text += ", least at " + shown(*least);
  out.sentences.push_back(text + ".");
  json::Value values = json::Value::object();
  values.set("layers", static_cast<int64_t>(layers.n_rows())).set("layers_apart", apart);
  if (most) values.set("layer", layers.integer(*most, "layer")).set("cramers_v", v(*most));
  if (most) values.set("p_permutation", layers.number(*most, "p_permutation"));
  out.values.set("separation", std::move(values));
}

// ---- Specialists

struct Specialist {
  std::string domain;
  Estimate ratio;
  double q = no_number;
};

std::map<ExpertId, Specialist> tell_specialists(const fs::path& file, const std::vector<std::string>& domains,
                                                DomainFindings& out) {
  std::map<ExpertId, Specialist> found;
  if (!fs::exists(file)) return found;
  const Columns table(file);
  std::map<std::string, int64_t> labels, by_domain;
  for (size_t row = 0; row < table.n_rows(); ++row) {
    ++labels[table.text(row, "label")];
    if (table.text(row, "label") != "specialist") continue;
    const std::string& domain = table.text(row, "domain");
    ++by_domain[domain];
    found[{static_cast<int32_t>(table.integer(row, "layer")), static_cast<int32_t>(table.integer(row, "expert"))}] = {
        domain,
        {table.number(row, "rate_ratio"), table.number(row, "ci_lo"), table.number(row, "ci_hi")},
        table.number(row, "q")};
  }
  json::Value values = json::Value::object();
  std::vector<std::string> parts;
  for (const std::string& domain : domains) {
    parts.push_back(domain + " " + std::to_string(by_domain[domain]));
    values.set(domain, by_domain[domain]);
  }
  out.sentences.push_back("Of " + std::to_string(table.n_rows()) + " experts " + std::to_string(labels["specialist"]) +
                          " are specialists of a domain (" + abridged(parts, 8) + "), " +
                          std::to_string(labels["generalist"]) + " generalists, and " +
                          std::to_string(labels["undecided"]) +
                          " undecided (specialists.csv says with what interval).");
  out.values.set("specialists", std::move(values));
  return found;
}

// ---- Stickiness

void tell_stickiness(const Columns& layers, const Columns& experts, DomainFindings& out) {
  double share = 0, expected = 0;
  int64_t n = 0;
  const auto excess = [&](size_t row) { return layers.number(row, "consistency") - layers.number(row, "expected"); };
  int64_t above = 0, below = 0;
  for (size_t row = 0; row < layers.n_rows(); ++row) {
    if (!std::isfinite(excess(row))) continue;
    share += layers.number(row, "consistency");
    expected += layers.number(row, "expected");
    ++n;
    if (layers.number(row, "q") < level) ++(excess(row) > 0 ? above : below);
  }
  if (n == 0) return;
  share /= static_cast<double>(n);
  expected /= static_cast<double>(n);
  const size_t most = *layers.largest(excess);
  out.sentences.push_back(
      "Stickiness: a token shares " + percent(share) + " of its experts with the token before it, and " +
      percent(expected) + " where the tokens of each text are shuffled (means over layers); more than shuffled at " +
      part_of(above, layers.n_rows()) + " layers and less at " + std::to_string(below) + " (q < 0.05), most at layer " +
      layers.text(most, "layer") + " (" + percent(layers.number(most, "consistency")) + " against " +
      percent(layers.number(most, "expected")) + ").");
  json::Value values = json::Value::object();
  values.set("consistency", share).set("shuffled", expected).set("layers_above", above).set("layers_below", below);
  out.values.set("stickiness", std::move(values));
  const int64_t ordered = experts.count_below("lag1_q", level);
  const auto stickiest = experts.largest(
      [&](size_t row) { return experts.number(row, "lag1_q") < level ? experts.number(row, "lag1") : no_number; });
  std::string text = "Of " + std::to_string(experts.n_rows()) + " experts " + std::to_string(ordered) +
                     " depend on the token before (lag-1 correlation other than in shuffled texts, q < 0.05)";
  if (stickiest)
    text += "; the stickiest of them, layer " + experts.text(*stickiest, "layer") + " expert " +
            experts.text(*stickiest, "expert") + ", takes " + percent(experts.number(*stickiest, "rate")) +
            " of all tokens and " + percent(experts.number(*stickiest, "p_stay")) +
            " of those that follow one of its own";
  out.sentences.push_back(text + ".");
  out.values.set("experts_in_order", ordered);
}

void tell_transitions(const Columns& pairs, DomainFindings& out) {
  if (pairs.n_rows() == 0) return;
  const auto excess = [&](size_t row) {
    return pairs.number(row, "q") < level ? pairs.number(row, "count") - pairs.number(row, "expected") : no_number;
  };
  const int64_t more = pairs.count_below("q", level);
  std::string text = "Succession: " + part_of(more, pairs.n_rows()) +
                     " pairs of first experts that occur one after the other do so more often than in shuffled texts "
                     "(q < 0.05)";
  if (const auto most = pairs.largest(excess))
    text += ", most at layer " + pairs.text(*most, "layer") + " from " + pairs.text(*most, "from") + " to " +
            pairs.text(*most, "to") + " (" + pairs.text(*most, "count") + " times, expected " +
            format_value(pairs.number(*most, "expected"), 1) + ")";
  out.sentences.push_back(text + ".");
  out.values.set("transitions_above", more);
}

// ---- Experts of each domain

struct Share {
  int64_t count = 0, tokens = 0;
  double value() const { return tokens > 0 ? static_cast<double>(count) / static_cast<double>(tokens) : no_number; }
};

struct Usages {
  std::vector<std::string> domains;                            // in order of first appearance
  std::map<ExpertId, std::map<std::string, Share>> by_expert;  // of a domain
};

Usages read_usages(const Columns& table) {
  Usages out;
  for (size_t row = 0; row < table.n_rows(); ++row) {
    const std::string& domain = table.text(row, "domain");
    if (domain.empty()) continue;
    if (std::find(out.domains.begin(), out.domains.end(), domain) == out.domains.end()) out.domains.push_back(domain);
    const ExpertId expert{static_cast<int32_t>(table.integer(row, "layer")),
                          static_cast<int32_t>(table.integer(row, "expert"))};
    out.by_expert[expert][domain] = {table.integer(row, "count"), table.integer(row, "tokens")};
  }
  return out;
}

FindingsTable experts_by_domain(const Usages& usages, const std::map<ExpertId, Specialist>& specialists, bool labelled,
                                size_t top) {
  using Kind = TableColumn::Kind;
  FindingsTable table;
  table.columns = {{"domain", Kind::text, {"domain"}},
                   {"layer", Kind::count, {"layer"}},
                   {"expert", Kind::count, {"expert"}},
                   {"% of its tokens", Kind::value, {"share"}, true},
                   {"% elsewhere", Kind::value, {"elsewhere"}}};
  if (labelled) {
    table.columns.push_back({"rate ratio [95 % CI]", Kind::estimate, {"rate_ratio", "ci_lo", "ci_hi"}});
    table.columns.push_back({"q", Kind::p, {"q"}});
  }
  if (usages.domains.size() < 2) return table;
  for (const std::string& domain : usages.domains) {
    struct Candidate {
      ExpertId expert;
      double share, elsewhere;
    };
    std::vector<Candidate> candidates;
    for (const auto& [expert, shares] : usages.by_expert) {
      Share mine, others;
      for (const auto& [name, share] : shares) {
        Share& sum = name == domain ? mine : others;
        sum.count += share.count;
        sum.tokens += share.tokens;
      }
      if (mine.value() > others.value()) candidates.push_back({expert, mine.value(), others.value()});
    }
    std::stable_sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
      return a.share - a.elsewhere > b.share - b.elsewhere;
    });
    candidates.resize(std::min(top, candidates.size()));
    for (const Candidate& one : candidates) {
      TableRow row;
      row.cells = {domain, int64_t{one.expert.layer}, int64_t{one.expert.expert}, Estimate{100 * one.share},
                   Estimate{100 * one.elsewhere}};
      if (labelled) {
        const auto found = specialists.find(one.expert);
        const bool is_one = found != specialists.end() && found->second.domain == domain;
        row.cells.push_back(is_one ? found->second.ratio : Estimate{});
        row.cells.push_back(is_one ? found->second.q : no_number);
      }
      table.rows.push_back(std::move(row));
    }
  }
  return table;
}

// Where every expert is active for every token there is no choice to compare.
void tell_no_choice(const Usages& usages, DomainFindings& out) {
  for (const auto& [expert, shares] : usages.by_expert)
    for (const auto& [name, share] : shares)
      if (share.count != share.tokens) return;
  out.sentences.push_back(
      "Every token selects every expert of its layer: this model chooses none, so that use cannot differ. What may "
      "differ is how much each weighs (mean_weight in usage.csv).");
}

// Where no q can fall below the level, silence is no finding.
void tell_resamples(const fs::path& summary, DomainFindings& out) {
  if (!fs::exists(summary)) return;
  const json::Value parsed = json::parse_file(summary);
  const auto routing = json::Ref(parsed, summary.string()).find("routing");
  if (!routing) return;
  const int64_t resamples = routing->at("resamples").integer();
  const double smallest = 1 / static_cast<double>(1 + resamples);
  if (smallest < level) return;
  out.sentences.push_back("With " + std::to_string(resamples) + " resamples no p is below " + format_p(smallest) +
                          ", so nothing above can have q < 0.05: ask for more (--resamples).");
}

}  // namespace

DomainFindings domain_findings(const fs::path& analysis, size_t top) {
  DomainFindings out;
  out.values = json::Value::object();
  const Usages usages = read_usages(Columns(analysis / "usage.csv"));
  tell_separation(Columns(analysis / "domains.csv"), usages.domains.size(), out);
  const fs::path labels = analysis / "specialists.csv";
  const std::map<ExpertId, Specialist> specialists = tell_specialists(labels, usages.domains, out);
  tell_stickiness(Columns(analysis / "consistency.csv"), Columns(analysis / "persistence.csv"), out);
  tell_transitions(Columns(analysis / "transitions.csv"), out);
  tell_no_choice(usages, out);
  tell_resamples(analysis / "summary.json", out);
  out.experts = experts_by_domain(usages, specialists, fs::exists(labels), top);
  return out;
}

}  // namespace signalbox::eval
