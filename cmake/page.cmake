# The page that `signalbox serve` shows: the modules of tools/serve/page and their style, put together into one file that
# asks for no other. Modules share one scope there, so a name at their outermost level stands in one of them only
# (tests/serve/page_test.mjs looks). Sets page_asm, the source to compile.
#
# As a script (cmake -DPAGE=FOLDER -DOUT=FILE -P page.cmake) it writes that file, and beside it FILE.gz.
set(page_modules logic/arrays.js logic/sse.js logic/colours.js logic/routes.js logic/patterns.js logic/results.js
    logic/spec.js logic/controls.js logic/words.js logic/tree.js logic/layout.js logic/model.js logic/requests.js logic/api.js
    logic/store.js logic/session.js views/dom.js views/cells.js views/tokens.js views/routes.js views/cell.js
    views/forks.js views/board.js views/steering.js views/patterns.js views/compose.js views/exports.js views/help.js
    views/app.js)
if(CMAKE_SCRIPT_MODE_FILE)
  set(script "")
  foreach(module ${page_modules})
    file(READ ${PAGE}/${module} text)
    string(REGEX REPLACE "(^|\n)import [^;]*;" "\\1" text "${text}")
    string(REGEX REPLACE "(^|\n)export (async |const |function |class |let )" "\\1\\2" text "${text}")
    string(APPEND script "\n// ${module}\n${text}")
  endforeach()
  string(APPEND script "\nstartPage(document.getElementById('page'));\n")
  file(READ ${PAGE}/page.html page)
  file(READ ${PAGE}/page.css style)
  string(REPLACE "@STYLE@" "${style}" page "${page}")
  string(REPLACE "@SCRIPT@" "${script}" page "${page}")
  file(WRITE ${OUT} "${page}")
  # Without name and time: the same page gives the same bytes.
  execute_process(COMMAND gzip -9 -n -k -f ${OUT} COMMAND_ERROR_IS_FATAL ANY)
  return()
endif()

# A wheel holds the page's views for notebooks too: signalbox/static/widget.js, from the same modules.
if(SKBUILD)
  find_package(Python3 COMPONENTS Interpreter REQUIRED)
  install(CODE "execute_process(COMMAND \"${Python3_EXECUTABLE}\" \"${CMAKE_SOURCE_DIR}/tools/python/bundle.py\"
    \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/static\" COMMAND_ERROR_IS_FATAL ANY)" COMPONENT program)
endif()

list(TRANSFORM page_modules PREPEND ${CMAKE_SOURCE_DIR}/tools/serve/page/)
add_custom_command(OUTPUT ${CMAKE_BINARY_DIR}/page.html ${CMAKE_BINARY_DIR}/page.html.gz
  COMMAND ${CMAKE_COMMAND} -DPAGE=${CMAKE_SOURCE_DIR}/tools/serve/page -DOUT=${CMAKE_BINARY_DIR}/page.html
          -P ${CMAKE_SOURCE_DIR}/cmake/page.cmake
  DEPENDS ${page_modules} ${CMAKE_SOURCE_DIR}/tools/serve/page/page.html ${CMAKE_SOURCE_DIR}/tools/serve/page/page.css
          ${CMAKE_SOURCE_DIR}/cmake/page.cmake
  COMMENT "The page of signalbox serve" VERBATIM)
embed_files(page ${CMAKE_BINARY_DIR}/page.html ${CMAKE_BINARY_DIR}/page.html.gz)   # sets page_asm
