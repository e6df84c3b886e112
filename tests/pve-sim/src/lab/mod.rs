//! The lab of real containers: networks and a template for nodes with the lxc body. Not there yet.
