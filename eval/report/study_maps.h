// What the reports of patching and of attribution share: values by layer and column as heat maps.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/namespaces.h"

namespace signalbox::eval {

// Values by layer (-1: before layer 0, or of no layer) and column.
class LayerMap {
 public:
  // Of several values of one place the one of the largest size stays; `title` is shown on hovering.
  void take(int32_t layer, int32_t column, double value, const std::string& title, bool uncertain = false);
  // To what stands there.
  void add(int32_t layer, int32_t column, double value);
  bool empty() const { return cells_.empty(); }
  bool has_columns() const;  // more than one
  // An HTML figure. `across`: what columns are; `caption`: HTML. Small squares for what is uncertain.
  std::string figure(const std::string& id, const std::string& label, const std::string& across,
                     const std::string& caption) const;

 private:
  struct Cell {
    double value = 0;
    std::string title;
    bool uncertain = false;
  };
  std::map<std::pair<int32_t, int32_t>, Cell> cells_;
};

// "layer 3 attn.z 2", as people read it.
std::string place_text(const std::string& layer, const std::string& point, const std::string& unit);

}  // namespace signalbox::eval
