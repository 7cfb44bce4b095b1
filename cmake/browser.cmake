# What reports run in a browser: D3 and the files of eval/report/browser, embedded as they are.
string(REPLACE ":" ";" d3_prefixes "$ENV{CMAKE_PREFIX_PATH}")
find_file(D3_SCRIPT d3.min.js HINTS ${CMAKE_PREFIX_PATH} ${d3_prefixes} PATHS /usr
          PATH_SUFFIXES share/nodejs/d3/dist NO_DEFAULT_PATH)
if(NOT D3_SCRIPT)
  message(FATAL_ERROR "D3: expected share/nodejs/d3/dist/d3.min.js in /usr or a folder of CMAKE_PREFIX_PATH (Debian's "
                      "node-d3: tools/install-packages), found none; -DD3_SCRIPT=FILE names it")
endif()
file(READ ${D3_SCRIPT} d3_begin LIMIT 80)
if(NOT d3_begin MATCHES "d3js\\.org v5\\.")
  message(FATAL_ERROR "D3: ${D3_SCRIPT}: expected version 5 (Debian's node-d3), found \"${d3_begin}\"")
endif()
file(GLOB browser_files CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/eval/report/browser/*.js
     ${CMAKE_SOURCE_DIR}/eval/report/browser/*.css ${CMAKE_SOURCE_DIR}/eval/report/browser/*.txt)
embed_files(browser ${browser_files} ${D3_SCRIPT})   # sets browser_asm
