// What must hold of every page that eval/report makes.
#pragma once
#include <string>

namespace signalbox::test {

// Leaves out styles and scripts, then checks that tags nest and close, that attributes are quoted and that no bare <, >
// or & is left; and that the content security policy has the hash of every style and script that a browser would use,
// and no other. What is wrong, or "".
std::string mistake_in_html(const std::string& html);

// Does anything but its scripts name a place outside the page?
bool from_outside(const std::string& html);

// The content of the data block with this id, as it stands; "" where there is none.
std::string data_block(const std::string& html, const std::string& id);

}  // namespace signalbox::test
