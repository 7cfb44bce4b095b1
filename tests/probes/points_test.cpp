#include <doctest/doctest.h>

#include <algorithm>
#include <sstream>

#include "base/error.h"
#include "tests/probes/sample.h"

using namespace signalbox;
using namespace signalbox::tools;
using namespace signalbox::test;

namespace {

std::string names(const PointSet& set) {
  std::string text;
  for (const PointAt& at : set.all()) text += (text.empty() ? "" : " ") + point_name(at.point, at.layer);
  return text;
}

std::string parsed(const std::string& globs) { return names(PointSet::parse(globs, sample_shape())); }

}  // namespace

TEST_CASE("points: names go back and forth") {
  CHECK(point_name(Point::resid_in, 3) == "layer.3.resid_in");
  CHECK(point_name(Point::embed, 3) == "embed");
  CHECK(parse_point("layer.12.expert.out") == PointAt{Point::expert_out, 12});
  CHECK(parse_point("final.normed") == PointAt{Point::final_normed, -1});
  for (const char* wrong : {"resid_in", "layer.3.embed", "layer..resid_in", "layer.03.resid_in", "layer.-1.resid_in",
                            "layer.3", "layer.3.", "layer.99999999999.resid_in", "", "layer."})
    CHECK_MESSAGE(!parse_point(wrong), wrong);
  for (int32_t i = 0; i < n_points; ++i) {
    const Point point = static_cast<Point>(i);
    CHECK(find_point(point_info(point).name) == point);
    const int32_t layer = point_info(point).per_layer ? 7 : -1;
    CHECK(parse_point(point_name(point, layer)) == PointAt{point, layer});
  }
}

TEST_CASE("points: the list of all of them") {
  const std::string list = point_list("  ");
  CHECK(list.starts_with("  embed, layer.{l}.resid_in, layer.{l}.attn.q,"));
  CHECK(list.ends_with("final.normed, logits"));
  CHECK(std::count(list.begin(), list.end(), ',') == n_points - 1);
  std::istringstream lines(list);
  for (std::string line; std::getline(lines, line);) {
    CHECK(line.size() <= 100);
    CHECK(line.starts_with("  "));
  }
}

TEST_CASE("points: where they exist and how wide they are") {
  const ModelShape shape = sample_shape();
  CHECK(point_exists(Point::embed, -1, shape));
  CHECK_FALSE(point_exists(Point::embed, 0, shape));
  CHECK_FALSE(point_exists(Point::router_ids, 0, shape));
  CHECK(point_exists(Point::mlp_out, 0, shape));
  CHECK_FALSE(point_exists(Point::mlp_out, 1, shape));
  CHECK(point_exists(Point::shared_out, 4, shape));
  CHECK_FALSE(point_exists(Point::shared_out, 5, shape));
  CHECK_FALSE(point_exists(Point::resid_in, 6, shape));
  CHECK(point_width(Point::expert_hidden, 1, shape, 2) == 3);
  CHECK(point_width(Point::expert_out, 1, shape, 2) == 4);
  CHECK(point_width(Point::router_ids, 1, shape, 5) == 5);
  CHECK(point_width(Point::attn_q, 0, shape, 2) == 4 * 3);
  CHECK(point_width(Point::attn_k, 0, shape, 2) == 2 * 3);
  CHECK(point_width(Point::attn_v, 0, shape, 2) == 2 * 5);
  CHECK(point_width(Point::attn_z, 0, shape, 2) == 4 * 6);
  CHECK(point_width(Point::attn_pattern, 0, shape, 2) == 4);  // of one key
  CHECK(point_dims(Point::attn_pattern, 0, shape, 2, 7) == std::vector<int64_t>{4, 7});
  CHECK(point_dims(Point::expert_contribution, 1, shape, 3) == std::vector<int64_t>{3, 4});
  CHECK(point_dims(Point::router_margin, 1, shape, 3).empty());
  CHECK_FALSE(point_exists(Point::router_in, 0, shape));
  CHECK_FALSE(point_exists(Point::shared_in, 5, shape));
  CHECK_FALSE(point_exists(Point::router_group_margin, 1, shape));
  CHECK(point_width(Point::router_logits, 1, shape, 2) == 8);
  CHECK(point_width(Point::logits, -1, shape, 2) == 11);
  CHECK(shape.moe_layers() == std::vector<int32_t>{1, 2, 3, 4, 5});
}

TEST_CASE("points: globs") {
  CHECK(parsed("embed") == "embed");
  CHECK(parsed("layer.3.resid_in") == "layer.3.resid_in");
  CHECK(parsed("logits,embed") == "embed logits");
  CHECK(parsed("*resid_in") == parsed("resid_in"));
  CHECK(parsed("layer.2.*") ==
        "layer.2.resid_in layer.2.attn.q layer.2.attn.k layer.2.attn.v layer.2.attn.pattern layer.2.attn.z "
        "layer.2.attn.out layer.2.resid_mid layer.2.router.in layer.2.router.logits layer.2.router.scores "
        "layer.2.router.ids layer.2.router.weights layer.2.router.margin layer.2.expert.in layer.2.expert.hidden "
        "layer.2.expert.out layer.2.expert.contribution layer.2.expert.norm layer.2.shared.in layer.2.shared.out "
        "layer.2.moe.out layer.2.expert.update_share layer.2.expert.direct layer.2.resid_out");
  CHECK(parsed("*2.attn.*") == parsed("layer.2.attn.*"));
  CHECK(parsed("*.attn.*").find("layer.5.attn.pattern") != std::string::npos);
  CHECK(parsed("router.margin") == parsed("*.router.margin"));
  CHECK(PointSet::parse("*", sample_shape()).all().size() == 6 * 9 + 5 * 14 + 4 * 2 + 1 + 3);
  const PointSet all = PointSet::parse(default_points, sample_shape());
  CHECK(all.wants(Point::router_ids, 1));
  CHECK(all.wants(Point::router_weights, 5));
  CHECK_FALSE(all.wants(Point::router_ids, 0));
  CHECK_FALSE(all.wants(Point::router_logits, 1));
  CHECK_FALSE(all.wants(Point::router_ids, 100));
  CHECK_FALSE(PointSet().wants(Point::embed, -1));
  CHECK(PointSet().empty());
}

TEST_CASE("points: router points are recorded in the same layers") {
  const PointSet set = PointSet::parse("layer.2.router.ids,layer.4.router.weights,layer.3.resid_in", sample_shape());
  CHECK(set.router_layers() == std::vector<int32_t>{2, 4});
  CHECK(names(set) ==
        "layer.2.router.ids layer.2.router.weights layer.3.resid_in layer.4.router.ids "
        "layer.4.router.weights");
}

TEST_CASE("points: a glob that matches nothing is an error that names it") {
  auto message = [](const char* globs) { return error_of([&] { PointSet::parse(globs, sample_shape()); }); };
  CHECK(message("embed,layer.9.*") ==
        "--points: expected a glob that matches a probe point of this model, found \"layer.9.*\" (embed, resid_in, "
        "attn.q, attn.k, attn.v, attn.pattern, attn.z, attn.out, resid_mid, router.in, ... and 19 more: signalbox "
        "inspect MODEL --points lists them)");
  CHECK(
      message("router.group_margin") ==
      "--points: expected a glob that matches a probe point of this model, found \"router.group_margin\", which exists "
      "where a router keeps only some of several groups of experts (nearest: router.margin)");
  CHECK(message("layer.3.*group*").find("groups of experts") != std::string::npos);
  CHECK(message("layer.0.router.ids").find("\"layer.0.router.ids\"") != std::string::npos);
  CHECK(message("router.idss").ends_with("found \"router.idss\" (nearest: router.ids)"));
  CHECK(message("*.router.wieghts,embed").ends_with("(nearest: router.weights)"));
  CHECK(
      message("layer.0.router.ids").ends_with("(nearest: layer.1.router.ids, layer.2.router.ids, layer.3.router.ids)"));
  CHECK(message("").find("empty glob") != std::string::npos);
  CHECK(message("embed,").find("empty glob") != std::string::npos);
  CHECK(message("Embed").find("found \"Embed\"") != std::string::npos);
  // Stars do not make matching slow.
  std::string stars;
  for (int i = 0; i < 2000; ++i) stars += "*l";
  CHECK(message(stars.c_str()).find("expected a glob") != std::string::npos);
}
