//! Where does the corpus say it?
