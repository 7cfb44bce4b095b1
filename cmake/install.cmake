# cmake --install build --prefix P:
#   bin/signalbox                  the built-in model is inside it
#   share/signalbox/builtin        record sets of the built-in model, and its card
#   share/doc/signalbox            README.md, LICENSE, NOTICE, documents and examples
include(GNUInstallDirs)
install(TARGETS signalbox RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
if(cuda)   # cuBLAS is opened at run time; what lies in the source tree is not the installed binary's to use
  set(installed_library_folders ${cuda_library_folders})
  list(FILTER installed_library_folders EXCLUDE REGEX "^${CMAKE_SOURCE_DIR}/")
  set_target_properties(signalbox PROPERTIES INSTALL_RPATH "${installed_library_folders}")
endif()
install(DIRECTORY tools/builtin/heldout DESTINATION ${CMAKE_INSTALL_DATADIR}/signalbox/builtin)
install(FILES tools/builtin/CARD.md DESTINATION ${CMAKE_INSTALL_DATADIR}/signalbox/builtin)
install(FILES README.md LICENSE NOTICE CONTRIBUTING.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR}/docs)
