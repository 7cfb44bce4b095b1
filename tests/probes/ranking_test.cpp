// Experts by rank: any column that measures an effect, and only significant rows.
#include "probes/ranking.h"

#include <algorithm>

#include "tests/probes/sample.h"
#include "tests/support.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::test;

TEST_CASE("ranking: by another column, and with a q below a bound") {
  TemporaryDirectory dir;
  write_file(dir / "rd.csv",
             "layer,expert,rd,q,t\n1,0,0.5,0.20,1\n1,1,0.4,0.01,\n2,0,0.3,0.05,4\n2,1,0.2,,9\n3,0,-0.1,0.04,-7\n");
  const auto chosen = [&](const std::string& experts) {
    std::string text;
    auto plan =
        plan_of("[{'op': 'scale_expert', 'by': 0, 'experts': {'from': 'rd.csv', " + experts + "}}]", dir.path());
    for (const auto& [layer, list] : plan->experts_of(0))
      for (int32_t expert : list) text += std::to_string(layer) + "." + std::to_string(expert) + " ";
    return text;
  };
  const auto failure = [&](const std::string& experts) { return error_of([&] { chosen(experts); }); };
  CHECK(chosen("'top': 2") == "1.0 1.1 ");
  CHECK(chosen("'top': 2, 'by': 'rd'") == "1.0 1.1 ");
  CHECK(chosen("'top': 2, 'by': 't'") == "2.1 2.0 ");
  CHECK(chosen("'top': 9, 'by': 't'") == "1.0 2.1 2.0 ");  // an empty cell has no rank
  CHECK(chosen("'top': 2, 'by': 't', 'sign': 'both'") == "2.1 3.0 ");
  CHECK(chosen("'top': 2, 'by': 't', 'sign': '-'") == "3.0 ");
  CHECK(chosen("'top': 9, 'q_below': 0.05") == "1.1 ");  // below, not at; an empty cell is not significant
  CHECK(chosen("'top': 9, 'q_below': 0.06") == "1.1 2.0 ");
  CHECK(chosen("'top': 9, 'q_below': 0.05, 'sign': 'both'") == "1.1 3.0 ");
  CHECK(chosen("'top': 9, 'q_below': 1") == "1.0 1.1 2.0 ");
  const std::string file = (dir / "rd.csv").string();
  CHECK(failure("'top': 2, 'q_below': 0.01")
            .ends_with("experts: expected experts with an rd of the sign asked for and a q below q_below in " + file +
                       ", found none"));
  CHECK(failure("'top': 2, 'by': 't', 'sign': '-', 'q_below': 0.01")
            .ends_with("experts: expected experts with a t of the sign asked for and a q below q_below in " + file +
                       ", found none"));
  CHECK(failure("'top': 2, 'by': 'logit'").find("logit") != std::string::npos);
  for (const char* column : {"p", "q", "t_p", "layer", "expert", ""})
    CHECK(
        failure("'top': 2, 'by': '" + std::string(column) + "'")
            .ends_with(".by: expected a column that measures an effect (for significance there is q_below), found \"" +
                       std::string(column) + "\""));
  for (const char* bound : {"0", "-0.1", "1.5"})
    CHECK(failure("'top': 2, 'q_below': " + std::string(bound))
              .ends_with(".q_below: expected a number above 0 and up to 1, found " + std::string(bound)));
  write_file(dir / "rd.csv", "layer,expert,rd\n1,0,0.5\n");
  CHECK(failure("'top': 2, 'q_below': 0.05").find("\"q\"") != std::string::npos);
}

TEST_CASE("ranking: the order, ties by layer and then expert") {
  const std::vector<RankKey> keys = {{0.2, 1, 0}, {-0.3, 0, 2}, {0.2, 0, 5}, {0.2, 0, 3}, {0.3, 2, 1}};
  const auto order = [&](Ranking::Sign sign) {
    std::vector<RankKey> sorted = keys;
    std::sort(sorted.begin(), sorted.end(),
              [&](const RankKey& a, const RankKey& b) { return ranks_before(a, b, sign); });
    std::string text;
    for (const RankKey& key : sorted) text += std::to_string(key.layer) + "." + std::to_string(key.expert) + " ";
    return text;
  };
  CHECK(order(Ranking::Sign::plus) == "2.1 0.3 0.5 1.0 0.2 ");
  CHECK(order(Ranking::Sign::minus) == "0.2 0.3 0.5 1.0 2.1 ");
  CHECK(order(Ranking::Sign::both) == "0.2 2.1 0.3 0.5 1.0 ");
}

TEST_CASE("ranking: rows of a file, with and without a model to check them against") {
  TemporaryDirectory dir;
  const std::filesystem::path file = dir / "rd.csv";
  write_file(file, "layer,expert,rd,t\n1,7,0.5,\n40,2,-0.25,3\n");
  const RankingFile ranking(file);
  REQUIRE(ranking.n_rows() == 2);
  CHECK(ranking.layer(1) == 40);
  CHECK(ranking.expert(0) == 7);
  CHECK(ranking.value(1, ranking.column("rd")) == -0.25);
  CHECK_FALSE(ranking.value(0, ranking.column("t")));
  CHECK(ranking.find_column("t") == size_t{3});
  CHECK_FALSE(ranking.find_column("q"));
  const ModelShape shape = sample_shape();
  const auto failure = [&](const std::string& text, const ModelShape* model) {
    write_file(file, text);
    const std::string found = error_of([&] {
      const RankingFile read(file, model);
      read.value(0, read.column("rd"));
    });
    return found.substr(std::min(found.size(), file.string().size()));
  };
  CHECK(failure("layer,expert,rd\n40,2,1\n", &shape) ==
        ": line 2: layer: expected a layer of the model with a router, found 40");
  CHECK(failure("layer,expert,rd\n1,2,1\n1,2,1\n", &shape) ==
        ": line 3: expected a row for each expert of a layer, found layer 1 expert 2 twice");
  CHECK(failure("layer,expert,rd\n-1,2,1\n", nullptr) == ": line 2: expected a layer and an expert, found -1 and 2");
  CHECK(failure("layer,expert,rd\n1,2,\n", nullptr) == ": line 2: rd: expected a number, found \"\"");
  CHECK(failure("layer,rd\n1,2\n", nullptr) == ": expected a column \"expert\", found none");
}

TEST_CASE("ranking: by what experts give, and among several rows of an expert") {
  TemporaryDirectory dir;
  const auto experts = [&](const std::string& file, const std::string& keys) {
    const std::string edit =
        "[{'op': 'deactivate', 'mode': 'ban', 'experts': {'from': '" + file + "', 'top': 1, " + keys + "}}]";
    const std::string found = error_of([&] {
      const auto plan = plan_of(edit, dir.path());
      std::string text;
      for (const auto& [layer, list] : plan->experts_of(0))
        text += std::to_string(layer) + "." + std::to_string(list.at(0));
      throw Error("found", text);
    });
    const size_t at = found.find(dir.path().string());
    return at == std::string::npos ? found : found.substr(0, at) + found.substr(at + dir.path().string().size());
  };
  write_file(
      dir / "rd.csv",
      "layer,expert,rd,q,rd_norm,q_norm,rd_direct,q_direct\n1,0,0.5,0.01,1,0.5,0.1,0.04\n1,1,0.1,0.01,3,0.2,0.3,0.06\n"
      "2,2,0.2,0.9,2,0.01,0.2,0.01\n");
  CHECK(experts("rd.csv", "'sign': '+'") == "found: 1.0");
  CHECK(experts("rd.csv", "'by': 'norm'") == "found: 1.1");
  CHECK(experts("rd.csv", "'by': 'rd_norm'") == "found: 1.1");
  CHECK(experts("rd.csv", "'by': 'norm', 'q_below': 0.05") == "found: 2.2");  // by its own q
  CHECK(experts("rd.csv", "'by': 'direct', 'q_below': 0.05") == "found: 2.2");
  CHECK(experts("rd.csv", "'by': 'update_share'") ==
        "/rd.csv: expected a column \"rd_update\", for the ranking by \"update_share\" (a trace with the point "
        "expert.update_share gives it), found none");

  write_file(dir / "audit.csv",
             "layer,expert,metric,condition,effect,q_effect\n1,0,em,A,-0.5,0.01\n1,0,em,,-0.1,0.01\n1,1,em,A,-0.6,0.5\n"
             "1,1,em,,-0.3,0.5\n1,0,f1,A,-0.2,0.01\n1,0,f1,,-0.9,0.01\n");
  const std::string by = "'by': 'effect', 'sign': '-', ";
  CHECK(experts("audit.csv", by + "'metric': 'em'") == "found: 1.1");
  CHECK(experts("audit.csv", by + "'metric': 'f1', 'condition': 'A'") == "found: 1.0");
  CHECK(experts("audit.csv", by + "'metric': 'em', 'condition': 'A', 'q_below': 0.05") == "found: 1.0");
  CHECK(experts("audit.csv", by + "'condition': 'A'") ==
        "/audit.csv: expected the key \"metric\" in the ranking, one of \"em\", \"f1\", found none");
  CHECK(experts("audit.csv", by + "'metric': 'kl'") == "/audit.csv: expected a metric of \"em\", \"f1\", found \"kl\"");
  CHECK(experts("audit.csv", by + "'metric': 'em', 'condition': 'C'") ==
        "/audit.csv: expected a condition of \"A\", \"\", found \"C\"");
  CHECK(experts("rd.csv", "'condition': 'A'") ==
        "/rd.csv: expected a column \"condition\", for the rows of \"A\", found none");

  write_file(dir / "zero.csv", "layer,expert,rd\n1,0,0\n1,1,0\n");
  CHECK(experts("zero.csv", "'sign': 'both'")
            .find("expected experts that differ in rd, found none: it is 0 in every row") != std::string::npos);
}
