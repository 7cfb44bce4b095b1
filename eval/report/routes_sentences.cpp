#include "eval/report/routes_sentences.h"

#include <cmath>
#include <functional>
#include <optional>

#include "base/csv.h"
#include "eval/findings/audit.h"
#include "eval/findings/format.h"
#include "eval/report/detection_report.h"
#include "eval/report/routes_tables.h"

namespace signalbox::eval {

namespace {

namespace fs = std::filesystem;

// The row with the largest value among those that `takes`; nothing where none has one.
std::optional<size_t> largest_row(const CsvTable& table, const std::string& column,
                                  const std::function<bool(size_t)>& takes) {
  const size_t place = table.column(column);
  std::optional<size_t> best;
  for (size_t r = 0; r < table.n_rows(); ++r)
    if (!table.text(r, place).empty() && takes(r) && (!best || table.number(r, place) > table.number(*best, place)))
      best = r;
  return best;
}

bool is_below(const CsvTable& table, size_t row, const std::string& column, double limit) {
  const std::optional<size_t> place = find_column(table, column);
  return place && !table.text(row, *place).empty() && table.number(row, *place) < limit;
}

std::string shown(const CsvTable& table, size_t row, const std::string& column, int decimals) {
  return format_value(table.number(row, table.column(column)), decimals);
}

std::string of_rows(size_t n, const CsvTable& table, const std::string& thing) {
  return std::to_string(n) + " of " + std::to_string(table.n_rows()) + " " + thing;
}

std::string contrast_sentence(const fs::path& dir) {
  const std::vector<RankedExpert> ranking = by_magnitude(read_ranking(dir / "rd.csv"));
  const auto [a, b] = conditions_of(dir);
  size_t n = 0;
  const RankedExpert* first = nullptr;
  for (const RankedExpert& one : ranking) {
    if (!std::isfinite(one.rd)) continue;
    n += one.q < 0.05;
    if (!first) first = &one;
  }
  if (!first) return "";
  std::string out = std::to_string(n) + " of " + std::to_string(ranking.size()) +
                    " experts are used differently under " + a + " and " + b + " (q < 0.05). ";
  out += "The largest difference is that of expert " + std::to_string(first->expert) + " in layer " +
         std::to_string(first->layer) + ": " + format_difference(100 * first->rd, 1) + " percentage points " +
         format_interval(100 * first->ci_lo, 100 * first->ci_hi, 1, true) + ", used more under " +
         (first->rd > 0 ? a : b) + (first->q < 0.05 ? "." : "; it may be chance (q = " + format_p(first->q) + ").");
  return out;
}

std::string balance_sentence(const CsvTable& table) {
  const size_t domain = table.column("domain"), value = table.column("entropy_normalised");
  std::optional<size_t> least;
  for (size_t r = 0; r < table.n_rows(); ++r)
    if (table.text(r, domain).empty() && !table.text(r, value).empty() &&
        (!least || table.number(r, value) < table.number(*least, value)))
      least = r;
  if (!least) return "";
  return "Experts are used least evenly in layer " + table.text(*least, table.column("layer")) + ", as if " +
         shown(table, *least, "effective_experts", 1) + " experts shared the work (entropy " +
         format_value(100 * table.number(*least, value), 0) + " % of the largest).";
}

std::string domains_sentence(const CsvTable& table) {
  const std::string column = find_column(table, "q") ? "q" : "p_permutation";
  const auto differs = [&](size_t row) { return is_below(table, row, column, 0.05); };
  const std::string test = " (" + column + " < 0.05, domains permuted over whole records)";
  const std::optional<size_t> most = largest_row(table, "cramers_v", differs);
  if (!most) return "In no layer do domains use different experts beyond chance" + test + ".";
  size_t n = 0;
  for (size_t r = 0; r < table.n_rows(); ++r) n += differs(r);
  return "Domains use different experts in " + of_rows(n, table, "layers") + test + "; most in layer " +
         table.text(*most, table.column("layer")) + " (Cram\xC3\xA9r's V " + shown(table, *most, "cramers_v", 2) + ").";
}

std::string persistence_sentence(const CsvTable& table) {
  size_t more = 0, less = 0;
  const size_t lag1 = table.column("lag1"), stay = table.column("p_stay"), rate = table.column("rate");
  for (size_t r = 0; r < table.n_rows(); ++r)
    if (is_below(table, r, "lag1_q", 0.05) && !table.text(r, lag1).empty()) ++(table.number(r, lag1) > 0 ? more : less);
  // The largest excess over the expert's own rate, among those that the test tells from chance.
  std::optional<size_t> best;
  double excess = 0;
  for (size_t r = 0; r < table.n_rows(); ++r)
    if (is_below(table, r, "lag1_q", 0.05) && !table.text(r, stay).empty() &&
        table.number(r, stay) - table.number(r, rate) > excess) {
      excess = table.number(r, stay) - table.number(r, rate);
      best = r;
    }
  std::string out =
      "The use of " + of_rows(more + less, table, "experts") +
      " depends on the token before, beyond what tokens of one text share anyway (q < 0.05, tokens shuffled "
      "within samples): lag-1 correlation positive for " +
      std::to_string(more) + ", negative for " + std::to_string(less) + ".";
  if (best)
    out += " Expert " + table.text(*best, table.column("expert")) + " of layer " +
           table.text(*best, table.column("layer")) + " is selected by " +
           format_value(100 * table.number(*best, rate), 0) + " % of tokens, and by " +
           format_value(100 * table.number(*best, stay), 0) + " % of those that follow a token that selected it.";
  return out;
}

std::string consistency_sentence(const CsvTable& table) {
  size_t more = 0, less = 0;
  const std::optional<size_t> expected = find_column(table, "expected");
  if (!expected) return "";
  const size_t value = table.column("consistency");
  for (size_t r = 0; r < table.n_rows(); ++r)
    if (is_below(table, r, "q", 0.05) && !table.text(r, value).empty() && !table.text(r, *expected).empty())
      ++(table.number(r, value) > table.number(r, *expected) ? more : less);
  return "A token shares more experts with the one before it than in shuffled texts in " +
         of_rows(more, table, "layers") + ", and fewer in " + std::to_string(less) + " (q < 0.05).";
}

std::string coactivation_sentence(const CsvTable& table) {
  const std::optional<size_t> most = largest_row(table, "count", [](size_t) { return true; });
  if (!most) return "";
  return "The pair selected together most often: experts " + table.text(*most, table.column("expert_a")) + " and " +
         table.text(*most, table.column("expert_b")) + " of layer " + table.text(*most, table.column("layer")) +
         ", by " + table.text(*most, table.column("count")) + " tokens, " + shown(table, *most, "lift", 2) +
         " times as often as if each were chosen for itself.";
}

std::string across_sentence(const CsvTable& table) {
  const std::optional<size_t> most = largest_row(table, "phi", [&](size_t r) { return is_below(table, r, "q", 0.05); });
  if (!most) return "No pair of experts in neighbouring layers goes together beyond chance (q < 0.05).";
  return "The strongest link between layers: expert " + table.text(*most, table.column("expert_a")) + " of layer " +
         table.text(*most, table.column("layer_a")) + " and expert " + table.text(*most, table.column("expert_b")) +
         " of layer " + table.text(*most, table.column("layer_b")) + " (phi " + shown(table, *most, "phi", 2) +
         ", q < 0.05).";
}

}  // namespace

std::vector<std::string> routes_sentences(const fs::path& dir) {
  std::vector<std::string> out;
  const auto add = [&](std::string sentence) {
    if (!sentence.empty()) out.push_back(std::move(sentence));
  };
  if (fs::exists(dir / "rd.csv")) add(contrast_sentence(dir));
  const std::pair<const char*, std::string (*)(const CsvTable&)> all[] = {
      {"domains.csv", domains_sentence},           {"balance.csv", balance_sentence},
      {"persistence.csv", persistence_sentence},   {"consistency.csv", consistency_sentence},
      {"coactivation.csv", coactivation_sentence}, {"across_layers.csv", across_sentence}};
  for (const auto& [file, sentence] : all)
    if (const std::optional<CsvTable> table = read_table(dir, file)) add(sentence(*table));
  return out;
}

std::string sentences_list(const std::vector<std::string>& sentences) {
  if (sentences.empty()) return "";
  std::string out = "<ul class=\"findings\">";
  for (const std::string& sentence : sentences) out += "<li>" + html_escape(sentence) + "</li>";
  return out + "</ul>\n";
}

}  // namespace signalbox::eval
