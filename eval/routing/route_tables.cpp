#include "eval/routing/route_tables.h"

#include <algorithm>
#include <optional>
#include <set>

#include "base/error.h"
#include "base/near_names.h"
#include "base/text.h"
#include "eval/routing/communities.h"
#include "eval/routing/domains.h"
#include "eval/routing/expert_pairs.h"
#include "eval/routing/margins.h"
#include "eval/routing/persistence.h"
#include "eval/routing/phases.h"
#include "eval/routing/pipelines.h"
#include "eval/routing/similarity.h"
#include "eval/routing/specialists.h"
#include "eval/routing/taxonomy.h"

namespace signalbox::eval {

const std::vector<RouteTable>& route_tables() {
  static const std::vector<RouteTable> all = {
      {"balance", "how evenly experts are used, by layer and domain"},
      {"domains", "whether domains use different experts"},
      {"persistence", "how long tokens stay with an expert, against shuffled tokens"},
      {"consistency", "how much of its experts a token shares with the one before it, by layer"},
      {"autocorrelation", "the same expert again, some tokens later"},
      {"transitions", "from one token's first expert to the next one's"},
      {"coactivation", "experts that are selected together"},
      {"vocabulary", "the tokens that each expert reads"},
      {"vocabulary_next", "the tokens that follow those that each expert reads"},
      {"across_layers", "experts of one layer with those of the next"},
      {"similarity", "routes of the same tokens under two conditions"},
      {"specialists", "experts that a domain has for itself, and experts that serve all alike"},
      {"pipelines", "chains of experts through depth"},
      {"taxonomy", "kinds of tokens that an expert takes more or less of"},
      {"communities", "groups of experts that are selected together"},
      {"modularity", "how separate these groups are, by layer"},
      {"margins", "how near choices are to another one"},
      {"phases", "experts at the beginning, in the middle and at the end of a generation"},
      {"drift", "whether they change, by layer"},
      {"handoffs", "experts that lead the beginning with those that lead the end"},
  };
  return all;
}

std::vector<std::string> parse_route_tables(const std::string& list) {
  std::set<std::string> chosen;
  if (list == "all") {
    for (const RouteTable& table : route_tables()) chosen.insert(table.name);
  } else if (list != "none") {
    for (size_t begin = 0; begin <= list.size();) {
      const size_t end = std::min(list.find(',', begin), list.size());
      const std::string name(trimmed(std::string_view(list).substr(begin, end - begin)));
      const auto known = std::any_of(route_tables().begin(), route_tables().end(),
                                     [&](const RouteTable& table) { return table.name == name; });
      if (!known)
        throw UsageError("--tables", wrong_name("\"all\", \"none\" or names of tables", name,
                                                names_of(route_tables(), &RouteTable::name)));
      chosen.insert(name);
      begin = end + 1;
    }
  }
  std::vector<std::string> out;
  for (const RouteTable& table : route_tables())
    if (chosen.contains(table.name)) out.push_back(table.name);
  return out;
}

json::Value write_route_tables(const TraceSet& set, const std::vector<Usage>& usage, const RouteTableOptions& options,
                               const std::filesystem::path& dir) {
  json::Value tables = json::Value::array(), nulls = json::Value::object(), notes = json::Value::object();
  const auto wanted = [&](const char* name) {
    const bool found = std::find(options.tables.begin(), options.tables.end(), name) != options.tables.end();
    if (found) tables.push_back(name);
    return found;
  };
  const RouteOptions& routes = options.routes;
  if (wanted("balance")) write_balance_csv(dir / "balance.csv", balances(usage));
  if (wanted("domains")) {
    write_domains_csv(dir / "domains.csv", domain_tests(set, routes));
    nulls.set("domains", "domains permuted over records");
  }
  const bool persists = wanted("persistence"), consists = wanted("consistency");
  if (persists || consists) {
    const PersistenceTables found = persistence_tables(set, routes);
    if (persists) write_persistence_csv(dir / "persistence.csv", found.experts);
    if (consists) write_consistency_csv(dir / "consistency.csv", found.layers);
    constexpr const char* shuffled = "tokens shuffled within samples; two-sided";
    if (persists) nulls.set("persistence", shuffled);
    if (consists) nulls.set("consistency", shuffled);
  }
  if (wanted("autocorrelation"))
    write_autocorrelation_csv(dir / "autocorrelation.csv", autocorrelations(set, routes, options.lags));
  if (wanted("transitions")) {
    write_transitions_csv(dir / "transitions.csv", transitions(set, routes));
    nulls.set("transitions", "tokens shuffled within samples; one-sided");
  }
  if (wanted("coactivation")) write_coactivation_csv(dir / "coactivation.csv", coactivations(set, routes));
  std::optional<std::map<int32_t, std::string>> texts;
  for (const auto& [name, of] :
       {std::pair("vocabulary", VocabularyOf::input), std::pair("vocabulary_next", VocabularyOf::next)}) {
    if (!wanted(name)) continue;
    if (!texts) texts = token_texts(set);
    write_vocabulary_csv(dir / (std::string(name) + ".csv"), vocabulary(set, routes, of, options.vocabulary), *texts);
  }
  if (wanted("across_layers")) {
    write_across_layers_csv(dir / "across_layers.csv", across_layers(set, routes));
    nulls.set("across_layers", "the second layer turned in a circle within samples; one-sided");
  }
  if (wanted("similarity")) write_similarity_csv(dir / "similarity.csv", similarities(set, routes));
  if (wanted("specialists")) {
    write_specialists_csv(dir / "specialists.csv", specialists(set, routes));
    nulls.set("specialists", "domains permuted over records, pairs together; the highest ratio of any domain");
    if (set.domains().size() < 2) notes.set("specialists", "no ratios: the records have fewer than two domains");
  }
  if (wanted("pipelines")) {
    const Pipelines found = pipelines(set, routes);
    write_pipelines_csv(dir / "pipelines.csv", found.found);
    nulls.set(
        "pipelines",
        "lower layers turned in a circle within samples, in records that did not propose the chain; all links hold");
    notes.set("pipelines", "links in one half of the records: " + std::to_string(found.links) +
                               "; chains of them: " + std::to_string(found.candidates) +
                               "; confirmed in the other half: " + std::to_string(found.found.size()));
  }
  if (wanted("taxonomy")) {
    if (!texts) texts = token_texts(set);
    const TokenSpelling spelling(*texts);
    const std::vector<TaxonomyRow> rows =
        spelling.empty() ? std::vector<TaxonomyRow>() : taxonomy(set, routes, spelling);
    write_taxonomy_csv(dir / "taxonomy.csv", rows);
    nulls.set("taxonomy", "none drawn: t over records, pairs together, in one half of them");
    if (spelling.empty()) notes.set("taxonomy", "no rows: texts.jsonl has no pieces of the traces' tokens");
  }
  const bool groups = wanted("communities"), separate = wanted("modularity");
  if (groups || separate) {
    const CommunityTables found = communities(set, routes);
    if (groups) write_communities_csv(dir / "communities.csv", found.experts);
    if (separate) write_modularity_csv(dir / "modularity.csv", found.layers);
    if (separate)
      nulls.set("modularity", "signs of the excess of records, pairs together, that did not propose groups");
  }
  if (wanted("margins")) {
    const bool recorded = margins_recorded(set);
    write_margins_csv(dir / "margins.csv", recorded ? margins(set, routes) : std::vector<Margins>());
    if (!recorded)
      notes.set("margins", "no rows: the traces hold neither router.margin nor router.logits, or select all experts");
  }
  const bool uses = wanted("phases"), drifts = wanted("drift"), hands = wanted("handoffs");
  if (uses || drifts || hands) {
    const PhaseTables found = phase_tables(set, routes);
    if (uses) write_phases_csv(dir / "phases.csv", found.experts);
    if (drifts) write_drift_csv(dir / "drift.csv", found.layers);
    if (hands) write_handoffs_csv(dir / "handoffs.csv", found.handoffs);
    if (uses) nulls.set("phases", "thirds of each generation in a drawn order; two-sided");
    if (drifts) nulls.set("drift", "thirds of each generation in a drawn order");
    if (hands) nulls.set("handoffs", "thirds of each generation in any order alike; exact, one-sided");
    if (found.layers.empty()) notes.set("phases", "no rows: no sample has three generated tokens that count");
  }
  json::Value out = json::Value::object();
  out.set("tables", std::move(tables)).set("nulls", std::move(nulls)).set("notes", std::move(notes));
  return out.set("resamples", routes.resamples).set("seed", routes.seed);
}

}  // namespace signalbox::eval
